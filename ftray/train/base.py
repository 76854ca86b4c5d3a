"""Loads the pretrained model that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftray.errors import ModelError
from ftray.models.generation.decoder import check_decodes
from ftray.models.limits import load_fitting
from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import Spec
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Base:
    """The pretrained model with its new head, before any training, and the setup of its task."""

    model: PreTrainedModel
    setup: TaskSetup
    note: str = ""
    """A warning about changes that make the model and its tokenizer fit each other; empty without
    changes."""


def load_base(spec: Spec, schema: Schema, as_stored: bool = False) -> Base:
    """Load the model for training, in fp32 or `as_stored`. The spec's seed determines the initial
    weights of the head; train.dropout replaces every dropout probability in the model's config.
    Raises ModelError."""
    loaded = load_fitting(find_pretrained(spec.model, schema), spec, schema, as_stored)
    if spec.info.generates:
        check_decodes(loaded.model)  # fail before the training rather than when it is served
    if problem := get_task(spec.task).untrainable(loaded.model, loaded.setup):
        fix = "name a model of another family, as Llama, Qwen, Mistral or Gemma"
        raise ModelError.of("model.name_or_path", spec.model.name_or_path, problem, fix)
    loaded.model.config.use_cache = False  # training needs no KV cache
    return Base(loaded.model, loaded.setup, loaded.note)
