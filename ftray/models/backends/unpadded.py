"""Computes the blocks of an encoder without padding: the rows of a batch follow one another in one
long row, and a mask keeps each token from seeing those of other rows (as in Krell et al. 2021,
"Efficient sequence packing without cross-contamination"). The stem and the head still get padded
rows, so that positions and pooling stay the model's own.

It suits models whose blocks know of a token's place in its row by its state alone. Blocks that read
positions besides, as rotary ones do, are refused; `check` finds any others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.backends.graph import Unfit
from ftray.models.structure.groups import Blocks, find_blocks

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def unpadded(model: nn.Module) -> Iterator[None]:
    """Let the blocks of `model` compute without padding. The forward pass must name its argument
    `attention_mask`, (B, L). Raises Unfit, here or in the forward pass, where they cannot."""
    blocks = _plain_blocks(model)
    packing = _Packing()
    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(packing.start, with_kwargs=True))
        for index in range(len(blocks)):
            hook = packing.within if index else packing.enter
            first = blocks.first(index)
            hooks.enter_context(first.register_forward_pre_hook(hook, with_kwargs=True))
        hooks.enter_context(blocks.last.register_forward_hook(packing.leave))
        yield


def _plain_blocks(model: nn.Module) -> Blocks:
    try:
        blocks = find_blocks(model)
    except ModelError as error:
        raise Unfit(error.problems[0].problem) from None
    if blocks.encoder is not None or blocks.repeat or any(len(each) > 1 for each in blocks.modules):
        raise Unfit("its blocks do not run once each, one after the other")
    return blocks


class _Packing:
    """Hooks of a forward pass. Each sets what the later ones read."""

    _mask: torch.Tensor
    """(B, L): 1 for a token, 0 for padding."""
    _tokens: torch.Tensor
    """(T,): the places of all tokens among the B * L of the padded rows."""
    _same_row: torch.Tensor
    """(1, 1, T, T): whether two tokens are of one row."""

    def start(self, _model: nn.Module, _args: Any, named: Mapping[str, Any]) -> None:
        if not isinstance(named.get("attention_mask"), torch.Tensor):
            raise Unfit("it reads no attention_mask")
        self._mask = named["attention_mask"]
        rows = torch.arange(self._mask.shape[0], device=self._mask.device)[:, None]
        self._tokens = self._mask.flatten().nonzero().flatten()
        row = rows.expand_as(self._mask).flatten()[self._tokens]
        self._same_row = (row[:, None] == row[None, :])[None, None]

    def enter(self, block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
        """Replace the states (B, L, D) that enter the first block by those of tokens, (1, T, D)."""
        args, named = self.within(block, args, named)
        if args[0].dim() != 3:
            raise Unfit("its states are not those of tokens")
        return (args[0].flatten(0, 1)[self._tokens][None], *args[1:]), named

    def within(self, _block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
        """Replace the mask that a block reads."""
        if not args or not isinstance(args[0], torch.Tensor):
            raise Unfit("its blocks are called in a way of their own")
        found = [place for place, value in enumerate(args) if place and _has_tensors(value)]
        keys = [key for key, value in named.items() if _has_tensors(value)]
        if len(found) + len(keys) != 1:
            raise Unfit("its blocks read more than states and a mask")
        if keys:
            return args, {**named, keys[0]: self._like(named[keys[0]])}
        before, after = args[: found[0]], args[found[0] + 1 :]
        return (*before, self._like(args[found[0]]), *after), named

    def leave(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        """Give the states that leave the last block their padding back: zeros."""
        states = output if isinstance(output, torch.Tensor) else output[0]
        rows, tokens = self._mask.shape
        padded = states.new_zeros(rows * tokens, states.shape[-1])
        padded = padded.index_copy(0, self._tokens, states[0]).view(rows, tokens, -1)
        return padded if isinstance(output, torch.Tensor) else (padded, *output[1:])

    def _like(self, mask: Any) -> torch.Tensor:
        """Return the mask of tokens of the same row in the form of the model's own, (B, 1, L, L):
        booleans, or numbers to add."""
        if not isinstance(mask, torch.Tensor) or mask.dim() != 4:
            raise Unfit("its blocks read no mask of tokens")
        if mask.dtype == torch.bool:
            return self._same_row
        least = torch.finfo(mask.dtype).min
        return torch.zeros_like(self._same_row, dtype=mask.dtype).masked_fill(
            ~self._same_row, least
        )


def _has_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_tensors, value))
    return isinstance(value, torch.Tensor)
