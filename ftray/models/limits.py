"""Finds the limits of a model's input: most tokens of a row, and token ids that its embedding has.

Both limits come from the model's own embedding lookups and not from its config: families like
RoBERTa begin to count positions after their padding id, so `max_position_embeddings` is too high.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ftray.errors import ModelError
from ftray.models.pretrained import Pretrained
from ftray.models.structure.quantized import quantize
from ftray.spec.schema import Spec
from ftray.tasks import Task, get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema

_TOKENS = 5
"""Tokens of the row with which `usable_positions` runs the model."""


@dataclass(frozen=True)
class Loaded:
    """A base model with its new head, and its task's setup, made to fit each other. note: the
    changes that this needed, as a sentence."""

    model: PreTrainedModel
    setup: TaskSetup
    note: str


def setup_of(pretrained: Pretrained, spec: Spec, schema: Schema) -> TaskSetup:
    """Return the setup of the spec's task with the processor of the base model."""
    processor = pretrained.processor(spec.info)
    return TaskSetup(processor, schema, spec.data.max_length, spec.options)


def load_fitting(
    pretrained: Pretrained, spec: Spec, schema: Schema, as_stored: bool = False
) -> Loaded:
    """Load the model as `Pretrained.model` does, made to fit its tokenizer and rows of up to
    data.max_length tokens, its blocks quantized where the spec says so. Raises ModelError."""
    setup, task, note = setup_of(pretrained, spec, schema), get_task(spec.task), ""
    quantizes = spec.train.weights == "nf4"
    model = pretrained.model(task, schema, spec.seed, spec.train.dropout, as_stored or quantizes)
    if spec.info.reads_text:
        note = make_room(model, setup.processor)
        model.config.pad_token_id = setup.processor.pad_token_id
        _check_positions(model, setup, pretrained, task)
    if quantizes:
        quantize(model)
    return Loaded(model, setup, note)


def check_described(pretrained: Pretrained, spec: Spec, schema: Schema) -> str:
    """Return the note of `load_fitting` without reading weights. Raises ModelError, as
    `load_fitting` does, for rows that are too long."""
    if not spec.info.reads_text:
        return ""
    setup = setup_of(pretrained, spec, schema)
    task = get_task(spec.task)
    with torch.device("meta"):
        model = pretrained.empty_model(task, schema)
    _check_positions(model, setup, pretrained, task)
    return lacking_rows(model, setup.processor)


def _check_positions(
    model: nn.Module, setup: TaskSetup, pretrained: Pretrained, task: Task
) -> None:
    name, pad_id = pretrained.spec.name_or_path, setup.processor.pad_token_id
    check_positions(model, pad_id, name, setup.max_length)
    task.check_lengths(model, setup)


def usable_positions(model: nn.Module, pad_id: int) -> int | None:
    """Return the tokens of the longest row for which every position embedding has a place; None
    where the model looks up no positions. No weight is read: `model` may be on the meta device."""
    token = 1 if pad_id == 0 else 0
    ids = torch.full((1, _TOKENS), token)
    lookups = _Lookups()
    _give_numbers(model)
    with lookups, torch.no_grad():
        try:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        except _Reached:
            pass
        except (RuntimeError, ValueError, NotImplementedError):
            # On the meta device, the forward pass fails where it reads values other than ids.
            if not any(parameter.is_meta for parameter in model.parameters()):
                raise
    found = [rows - first for places, rows in lookups.found if (first := _first(places)) >= 0]
    return min(found, default=None)


def check_positions(model: nn.Module, pad_id: int, name: str, max_length: int) -> None:
    """Raise ModelError where the model `name` has no positions for rows of `max_length` tokens."""
    usable = usable_positions(model, pad_id)
    if usable is not None and usable < max_length:
        raise ModelError.of(
            "data.max_length",
            max_length,
            f"{name} takes at most {usable} tokens",
            f"set data.max_length to {usable} or less",
        )


def context(config: PretrainedConfig, trained: int) -> int:
    """Return the context length of a generating model: the number of positions in its config, where
    it is there, else `trained`, the length that the model was trained with."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or trained


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Add a row to the embedding for each token id of `tokenizer` that the embedding lacks: the
    mean of its rows. Returns a sentence about the added rows; empty where none was added.

    The new rows train where the embedding trains (train.unfreeze: all).
    """
    note = lacking_rows(model, tokenizer)
    if not note:
        return ""
    there = model.get_input_embeddings().weight.shape[0]
    needed = max(tokenizer.get_vocab().values()) + 1
    model.resize_token_embeddings(needed, mean_resizing=False)
    for module in {model.get_input_embeddings(), model.get_output_embeddings()}:
        # Random rows would differ between seeds, but the trunk cache serves all seeds alike.
        for tensor in module.parameters(recurse=False) if module is not None else ():
            if tensor.shape[0] == needed and not tensor.is_meta:
                tensor.data[there:] = tensor.data[:there].mean(0)
    return note


def lacking_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Describe the rows that `make_room` adds to the embedding, as a sentence; empty where the
    embedding has a row for each token id. No weight is read."""
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    there, needed = model.get_input_embeddings().weight.shape[0], max(names, default=0) + 1
    if needed <= there:
        return ""
    shown = [names[token] for token in sorted(names) if token >= there]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return (
        f"the embedding of {model.config.name_or_path} has {there:,} rows and its tokenizer ids up "
        f"to {needed - 1:,}: rows are added for {', '.join(shown[:3])}{more}, which begin as the "
        "mean of the others and train with train.unfreeze: all"
    )


class _Reached(Exception):
    """Ends a forward pass at its first use of a weight other than an embedding: the model has
    looked up positions by then."""


class _Lookups(TorchFunctionMode):
    """Records each embedding lookup, (ids, rows of the embedding), and returns zeros for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.Tensor, int]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.embedding:
            ids, weight = args[0], args[1]
            self.found.append((ids, weight.shape[0]))
            return torch.zeros(*ids.shape, weight.shape[1], dtype=weight.dtype)
        if func == torch.Tensor.device.__get__:
            return torch.device("cpu")  # also for meta weights: the model's ids are on the CPU
        is_property = func.__name__ == "__get__"
        if not is_property and any(
            isinstance(a, nn.Parameter) for a in tree_leaves((args, kwargs))
        ):
            raise _Reached
        return func(*args, **(kwargs or {}))


def _give_numbers(model: nn.Module) -> None:
    """Replace buffers on the meta device by zeros: the model combines them with ids on the CPU."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))


def _first(places: torch.Tensor) -> int:
    """Return the position of a row's first token, where the positions rise by one from token to
    token; else -1."""
    if places.is_meta or not places.dim() or places.shape[-1] < _TOKENS:
        return -1
    row = places.reshape(-1, places.shape[-1])[
        0, :_TOKENS
    ].tolist()  # only the first tokens: some models add padding by themselves
    return row[0] if row == list(range(row[0], row[0] + _TOKENS)) else -1
