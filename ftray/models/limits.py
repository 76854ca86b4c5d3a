"""What a model can take in: so many tokens of a row, and token ids that its embedding has.

Both are read off the model's own lookups and not off its config: families like RoBERTa begin to
count positions behind their padding's id, so that `max_position_embeddings` says too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ftray.errors import ModelError
from ftray.models.pretrained import Pretrained
from ftray.tasks import Task

_TOKENS = 5
"""Of the row that is looked up."""


@dataclass(frozen=True)
class Loaded:
    """A base model with its new head and its tokenizer, made to fit each other; `note` says what
    that took."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    note: str


def load_fitting(
    pretrained: Pretrained,
    task: Task,
    labels: Sequence[str],
    seed: int,
    dropout: float | None = None,
    max_length: int = 0,
) -> Loaded:
    """The model as `Pretrained.model` gives it, for rows of up to `max_length` tokens of its
    tokenizer. Raises ModelError."""
    tokenizer = pretrained.tokenizer()
    model = pretrained.model(task, labels, seed, dropout)
    note = make_room(model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    check_positions(model, tokenizer.pad_token_id, pretrained.spec.name_or_path, max_length)
    return Loaded(model, tokenizer, note)


def check_described(
    pretrained: Pretrained, task: Task, labels: Sequence[str], max_length: int
) -> str:
    """The note of `load_fitting`. Raises ModelError as that does for rows that are too long. No
    weight is read."""
    tokenizer = pretrained.tokenizer()
    with torch.device("meta"):
        model = pretrained.empty_model(task, labels)
    check_positions(model, tokenizer.pad_token_id, pretrained.spec.name_or_path, max_length)
    return lacking_rows(model, tokenizer)


def usable_positions(model: nn.Module, pad_id: int) -> int | None:
    """Tokens of the longest row for which every table of positions has a place; None where the
    model looks up no positions. No weight is read: `model` may lie on the meta device."""
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
            # A forward pass that looks at other numbers than ids: of a model without numbers.
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
    """Tokens that a model which generates has in view: all that it has positions for, where its
    config says that, else as many as it was trained with."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or trained


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the embedding a row for each token id of `tokenizer` that it lacks: the mean of its
    rows. Returns what was done, as a sentence; empty where nothing was.

    The new rows train where the embedding does (train.unfreeze: all).
    """
    note = lacking_rows(model, tokenizer)
    if not note:
        return ""
    there = model.get_input_embeddings().weight.shape[0]
    needed = max(tokenizer.get_vocab().values()) + 1
    model.resize_token_embeddings(needed, mean_resizing=False)
    for module in {model.get_input_embeddings(), model.get_output_embeddings()}:
        # Drawn at random they would differ between seeds, for which frozen layers are cached once.
        for tensor in module.parameters(recurse=False) if module is not None else ():
            if tensor.shape[0] == needed and not tensor.is_meta:
                tensor.data[there:] = tensor.data[:there].mean(0)
    return note


def lacking_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """The rows that `make_room` adds to the embedding, as a sentence; empty where it has one for
    each token id. No weight is read."""
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
    """A weight that is no embedding: positions are looked up before."""


class _Lookups(TorchFunctionMode):
    """Notes what is looked up in embeddings, (ids, rows of the table), and gives zeros for it."""

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
            return torch.device("cpu")  # also of weights without numbers: places are numbers
        is_property = func.__name__ == "__get__"
        if not is_property and any(
            isinstance(a, nn.Parameter) for a in tree_leaves((args, kwargs))
        ):
            raise _Reached
        return func(*args, **(kwargs or {}))


def _give_numbers(model: nn.Module) -> None:
    """Zeros in place of buffers without numbers: they meet ids, which have some."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))


def _first(places: torch.Tensor) -> int:
    """The place of a row's first token, where each token has the next one; else -1."""
    if places.is_meta or not places.dim() or places.shape[-1] < _TOKENS:
        return -1
    row = places.reshape(-1, places.shape[-1])[
        0, :_TOKENS
    ].tolist()  # some models pad by themselves
    return row[0] if row == list(range(row[0], row[0] + _TOKENS)) else -1
