"""Computes the blocks of an encoder with next to no padding: several short rows share the length of
a long one, and a mask keeps each token from seeing those of other rows (as in Krell et al. 2021,
"Efficient sequence packing without cross-contamination"). The stem and the head still get padded
rows, so that positions and pooling stay the model's own.

It suits models whose blocks know of a token's place in its row by its state alone. Blocks that read
positions besides, as rotary ones do, are refused; `check` finds any others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, lru_cache
from typing import Any

import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.backends.graph import Unfit
from ftray.models.structure.groups import Blocks, find_blocks
from ftray.tasks.features import Layout

LAYOUT = ("places", "rows")
"""Names of the inputs that `Unpadded` takes beside the model's."""
_STRETCHES = (1.0, 1.25, 1.5, 2.0, 3.0)
"""Lengths of a shared row to try, as multiples of the longest row."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def lay_out(mask: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs `LAYOUT` for rows with the attention mask (B, L), those of the cheapest
    layout for a model whose states have `width` numbers.

    places: (R, S), the places among the B * L tokens of the padded rows, B * L for padding; rows:
    (R, S), the row of each token, -1 for padding.
    """
    if mask.shape[0] == 1 and all(mask.tolist()[0]):
        return _alone(mask.numel())
    of_rows = [row.nonzero().flatten() for row in mask]
    lengths = [len(tokens) for tokens in of_rows]
    layout, shape = _cheapest(lengths, width)
    places = torch.full(shape, mask.numel())
    rows = torch.full(shape, -1)
    for number, tokens in enumerate(of_rows):
        start = layout.starts[number]
        span = slice(start, start + len(tokens))
        places[layout.rows[number], span] = tokens + number * mask.shape[1]
        rows[layout.rows[number], span] = number
    return places, rows


@lru_cache(maxsize=128)
def _alone(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layout of a row alone, without padding."""
    return torch.arange(tokens)[None], torch.zeros(1, tokens, dtype=torch.long)


def _cheapest(lengths: Sequence[int], width: int) -> tuple[Layout, tuple[int, int]]:
    """Return the layout with the lowest cost, and the shape of its rows. On a CPU the matrices
    of a token cost as much as comparing it with about `3 * width` tokens."""

    def tried(most: int) -> tuple[Layout, tuple[int, int]]:
        layout = Layout.first_fit(lengths, most)
        ends = [start + length for start, length in zip(layout.starts, lengths, strict=True)]
        return layout, (max(layout.rows) + 1, max(ends))

    def cost(found: tuple[Layout, tuple[int, int]]) -> float:
        rows, tokens = found[1]
        return rows * tokens * (1 + tokens / (3 * width))

    sizes = {min(int(stretch * max(lengths)), sum(lengths)) for stretch in _STRETCHES}
    return min((tried(size) for size in sorted(sizes)), key=cost)


class Unpadded(nn.Module):
    """A model whose blocks compute next to no padding. It takes the model's inputs, by name, and
    those that `lay_out` gives."""

    def __init__(self, model: nn.Module) -> None:
        """Raises Unfit where the blocks of `model` do not run once each, one after the other, or
        its config does not tell how many numbers a token's state has."""
        super().__init__()
        self._model = model
        self._blocks = _plain_blocks(model)
        self.width: int | None = getattr(getattr(model, "config", None), "hidden_size", None)
        """Numbers in a token's state."""
        if self.width is None:
            raise Unfit("its config has no hidden_size")

    def forward(self, places: torch.Tensor, rows: torch.Tensor, **inputs: torch.Tensor) -> Any:
        """Return what the model returns. Raises Unfit where its blocks read something else than
        states and a mask."""
        packing = _Packing(places, rows)
        with ExitStack() as hooks:
            for index in range(len(self._blocks)):
                hook = packing.within if index else packing.enter
                first = self._blocks.first(index)
                hooks.enter_context(first.register_forward_pre_hook(hook, with_kwargs=True))
            hooks.enter_context(self._blocks.last.register_forward_hook(packing.leave))
            return self._model(**inputs)


def _plain_blocks(model: nn.Module) -> Blocks:
    try:
        blocks = find_blocks(model)
    except ModelError as error:
        raise Unfit(error.problems[0].problem) from None
    if blocks.encoder is not None or blocks.repeat or any(len(each) > 1 for each in blocks.modules):
        raise Unfit("its blocks do not run once each, one after the other")
    return blocks


def _packed(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the states (B, L, D) of padded rows in the layout, (R, S, D)."""
    if states.shape[0] == 1 and states.shape[:2] == places.shape:
        return states  # a row alone, without padding
    padding = states.new_zeros([1, states.shape[2]])
    return torch.cat([states.flatten(0, 1), padding])[places]


def _unpacked(states: torch.Tensor, places: torch.Tensor, entered: torch.Tensor) -> torch.Tensor:
    """Return the states (R, S, D) in the layout as those of padded rows, (B, L, D); padding gets
    zeros. entered: the states (B, L, D) that went into the first block."""
    rows, tokens = entered.shape[0], entered.shape[1]
    if rows == 1 and states.shape[:2] == [rows, tokens]:
        return states
    padded = states.new_zeros([rows * tokens + 1, states.shape[2]])
    padded = padded.index_copy(0, places.flatten(), states.flatten(0, 1))
    return padded[:-1].view(rows, tokens, states.shape[2])


@cache
def _scripted(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function as a script: a traced graph then decides in each pass, and not once."""
    scripted: Callable[..., torch.Tensor] = torch.jit.script(function)
    return scripted


class _Packing:
    """Hooks of one forward pass."""

    def __init__(self, places: torch.Tensor, rows: torch.Tensor) -> None:
        self._places = places
        self._same_row = (rows[:, :, None] == rows[:, None, :])[:, None]
        self._added: dict[torch.dtype, torch.Tensor] = {}
        self._entered = torch.empty(0)

    def enter(self, block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
        """Replace the states (B, L, D) that enter the first block by those in the layout, (R, S,
        D)."""
        args, named = self.within(block, args, named)
        states = args[0]
        if states.dim() != 3:
            raise Unfit("its states are not those of tokens")
        self._entered = states
        return (_scripted(_packed)(states, self._places), *args[1:]), named

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
        """Put the states that leave the last block into padded rows again; padding gets zeros."""
        states = output if isinstance(output, torch.Tensor) else output[0]
        padded = _scripted(_unpacked)(states, self._places, self._entered)
        return padded if isinstance(output, torch.Tensor) else (padded, *output[1:])

    def _like(self, mask: Any) -> torch.Tensor:
        """Return the mask of tokens of the same row in place of the model's own, (B, 1, L, L), as
        numbers to add. torch would make such numbers of a mask of booleans in every block."""
        if not isinstance(mask, torch.Tensor) or mask.dim() != 4:
            raise Unfit("its blocks read no mask of tokens")
        dtype = mask.dtype if mask.is_floating_point() else torch.float32
        if dtype not in self._added:
            added = torch.zeros_like(self._same_row, dtype=dtype)
            lowest = torch.finfo(dtype).min
            self._added[dtype] = added.masked_fill(~self._same_row, lowest)
        return self._added[dtype]


def _has_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_tensors, value))
    return isinstance(value, torch.Tensor)
