"""Loads the pretrained model that a run starts from."""

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
    """The pretrained model with its new head, before any training. `pad_id` and `special_ids` come
    from its tokenizer."""

    model: PreTrainedModel
    pad_id: int
    special_ids: frozenset[int] = frozenset()
    note: str = ""
    """A warning about changes that make the model and its tokenizer fit each other; empty without
    changes."""


def load_base(
    spec: ModelSpec,
    task: str,
    seed: int,
    labels: Sequence[str],
    dropout: float | None = None,
    max_length: int = 0,
) -> Base:
    """Load the model for training on rows of up to `max_length` tokens. `seed` determines the
    initial weights of the head; `dropout` replaces every dropout probability in the model's config.
    Raises ModelError."""
    loaded = load_fitting(find_pretrained(spec), get_task(task), labels, seed, dropout, max_length)
    model, tokenizer = loaded.model, loaded.tokenizer
    if task_info(task).generates:
        check_decodes(model)  # fail before the training rather than when the model is served
    model.config.use_cache = False  # training needs no KV cache
    special = frozenset(tokenizer.all_special_ids)
    return Base(model, tokenizer.pad_token_id, special, loaded.note)
