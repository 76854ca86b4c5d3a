"""The pretrained model that a run begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftray.models.generation.decoder import check_decodes
from ftray.models.limits import load_fitting
from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import ModelSpec
from ftray.tasks import get_task, task_info

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Base:
    """The pretrained model with its new head, before any training; `pad_id` and `special_ids` of
    its tokenizer."""

    model: PreTrainedModel
    pad_id: int
    special_ids: frozenset[int] = frozenset()
    note: str = ""
    """What was changed so that model and tokenizer fit each other."""


def load_base(
    spec: ModelSpec,
    task: str,
    seed: int,
    labels: Sequence[str],
    dropout: float | None = None,
    max_length: int = 0,
) -> Base:
    """The model with its head drawn from `seed`, ready to be trained on rows of up to `max_length`
    tokens; `dropout` in place of every dropout that its config names. Raises ModelError."""
    loaded = load_fitting(find_pretrained(spec), get_task(task), labels, seed, dropout, max_length)
    model, tokenizer = loaded.model, loaded.tokenizer
    if task_info(task).generates:
        check_decodes(model)  # rather now than when it is to be served
    model.config.use_cache = False  # of keys and values: nothing is generated here
    special = frozenset(tokenizer.all_special_ids)
    return Base(model, tokenizer.pad_token_id, special, loaded.note)
