"""Cuts off the frozen blocks of a model, whose output for a row never changes in training.

`capture` runs a model up to the boundary, where the first block that trains begins, and returns the
hidden states there. `cut_off` permanently replaces the blocks below the boundary by pass-throughs.
The caller then feeds each forward pass stored hidden states, while the model's own code still makes
masks and positions. Where only the head trains, and the head reads one token of a row, the caller
need store the state of that token alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ftray.errors import ModelError
from ftray.models.structure.blocks import FreezePlan
from ftray.models.structure.buffers import in_mode, kept, saved_buffers
from ftray.models.structure.groups import Blocks, find_blocks, has_blocks
from ftray.models.structure.outputs import answers_in, total_of

Position = Literal["first", "last", "mean"]
"""What of a row's states is kept: those of its first or last token, or their mean over an image."""
Inputs = Mapping[str, torch.Tensor]
"""Model inputs: input_ids and attention_mask, (B, T) each, with padding on the right; or
pixel_values, (B, C, H, W)."""


@dataclass(frozen=True)
class Cut:
    """A boundary at which a model is cut, and the tokens whose hidden states are kept there."""

    blocks: int
    """Number of lower blocks that are left out: at least one."""
    returns: int
    """Length of the tuple that a block returns; 0 for a block that returns a tensor."""
    reads: Position | None = None
    """The part of a row's states that is kept; None keeps all."""

    def kept(self, row: Any) -> Any:
        """Select from a row's values the part that is kept: from (T, ...) those of one token, from
        (C, H, W) their mean over height and width, (C, 1, 1)."""
        if self.reads == "mean":
            return row.mean((-2, -1), keepdim=True)
        return {None: row, "first": row[:1], "last": row[-1:]}[self.reads]


class _Reached(Exception):
    """Ends a forward pass at the boundary: the blocks above need not run."""


def frozen_blocks(model: nn.Module, plan: FreezePlan) -> int:
    """Count the consecutive blocks, from the lowest on, whose output depends on no parameter that
    trains; 0 where the model has no blocks in order."""
    if not has_blocks(model):
        return 0
    blocks, frozen = find_blocks(model), set(plan.frozen_modules)
    thawed = (i for i, names in enumerate(blocks.names) if not frozen.issuperset(names))
    return next(thawed, len(blocks))


def find_cut(model: nn.Module, blocks: int, inputs: Inputs) -> Cut:
    """Return the cut that removes the lowest `blocks` of a model in eval mode. `inputs`: a few rows
    of different lengths.

    Raises ModelError where the cut model does not give the logits of the whole model.
    """
    found = cuttable_blocks(model)
    reads = _position_read(model, found, inputs) if blocks == len(found) else None
    cut = Cut(blocks, length_returned(model, inputs), reads)
    if reads == "mean":
        with suppress(ModelError):  # a head that reads more than the mean
            return _checked(model, cut, inputs)
        cut = replace(cut, reads=None)
    return _checked(model, cut, inputs)


def _checked(model: nn.Module, cut: Cut, inputs: Inputs) -> Cut:
    """Return the cut. Raises ModelError as `find_cut` does."""
    check_cut(model, cut, inputs)
    if places := saved_buffers(model):
        # In train mode, batch statistics include padding. The states of padding are not stored, so
        # training replays zeros in their place.
        with kept(places), in_mode(places, training=True):
            check_cut(model, cut, inputs, pads_with_zeros=True)
    return cut


def length_returned(model: nn.Module, inputs: Inputs) -> int:
    """Return `Cut.returns`, which is the same for every cut of `model`."""
    returns: list[int] = []
    handle = (
        find_blocks(model)
        .first(0)
        .register_forward_hook(
            lambda _module, _args, output: returns.append(
                0 if isinstance(output, torch.Tensor) else len(output)
            )
        )
    )
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        handle.remove()
    return returns[0]


def check_cut(model: nn.Module, cut: Cut, inputs: Inputs, pads_with_zeros: bool = False) -> None:
    """Compare the logits of the cut model with those of the whole model. Raises ModelError where
    they differ. pads_with_zeros: the cut model gets zeros in place of the states of padding."""
    with torch.no_grad():
        whole = answers_in(model(**inputs))
    (states,) = capture(model, [cut], inputs)
    if pads_with_zeros and "attention_mask" in inputs:
        states = states * inputs["attention_mask"][..., None]
    try:
        with cut_for_now(model, cut) as replay, torch.no_grad():
            replay.feed(gathered(cut, states, inputs.get("attention_mask")))
            found = answers_in(model(**shortened(cut, inputs)))
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        # A model may read more from its blocks than hidden states, which pass-throughs lack.
        problem = f"does not run without its lowest {cut.blocks} blocks: {error}"
        raise _uncuttable(model, problem) from error
    # The cut model may run on one token a row; other shapes may round differently.
    if not all(map(_close, whole, found)):
        raise _uncuttable(model, f"answers otherwise without its lowest {cut.blocks} blocks")


def cuttable_blocks(model: nn.Module) -> Blocks:
    """Return the model's blocks. Raises ModelError where it has none, or needs more than the state
    that enters a block to go on from there."""
    try:
        blocks = find_blocks(model)
    except ModelError as error:
        raise _uncuttable(model, error.problems[0].problem) from None
    if blocks.encoder is not None:
        raise _uncuttable(
            model, "has a decoder that reads the encoder's output beside its own states"
        )
    if blocks.repeat:
        raise _uncuttable(model, "runs each of its blocks several times")
    return blocks


def _close(wanted: torch.Tensor, found: torch.Tensor) -> bool:
    same = wanted.shape == found.shape
    return same and torch.allclose(wanted, found, rtol=1e-4, atol=1e-5)


def _uncuttable(model: nn.Module, problem: str) -> ModelError:
    fix = "set train.trunk_cache to off"
    return ModelError.of("train.trunk_cache", type(model).__name__, problem, fix)


def capture(
    model: nn.Module, cuts: Sequence[Cut], inputs: Inputs, blocks: Blocks | None = None
) -> list[torch.Tensor]:
    """Return the hidden states at each cut, (B, T, D), also those of padding. `model` is in eval
    mode; its blocks above the last cut do not run. blocks: the result of `find_blocks`, where the
    caller has it: finding blocks takes as long as running a small block."""
    blocks = find_blocks(model) if blocks is None else blocks
    found: dict[int, torch.Tensor] = {}
    highest = max(cut.blocks for cut in cuts)

    def keep(boundary: int, states: torch.Tensor) -> None:
        found[boundary] = states
        if boundary == highest:
            raise _Reached

    def entering(boundary: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(boundary, args[0] if args else kwargs["hidden_states"])

        return hook

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        keep(len(blocks), output if isinstance(output, torch.Tensor) else output[0])

    handles = [
        blocks.first(cut.blocks).register_forward_pre_hook(entering(cut.blocks), with_kwargs=True)
        if cut.blocks < len(blocks)
        else blocks.last.register_forward_hook(leave)
        for cut in cuts
    ]
    try:
        with suppress(_Reached), torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [found[cut.blocks] for cut in cuts]


class Replay:
    """A model without its lowest blocks, and the hidden states from which its next forward pass
    starts. `cut_off` makes it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.hook: RemovableHandle | None = None
        self._states: torch.Tensor | None = None

    def feed(self, states: torch.Tensor) -> None:
        """Set the states, (B, T, D), for inputs of (B, T). Every forward pass starts from them
        until the next call."""
        self._states = states

    def fed(self) -> torch.Tensor:
        assert self._states is not None, "a forward pass without states"
        return self._states


def cut_off(model: nn.Module, cut: Cut, blocks: Blocks | None = None) -> Replay:
    """Permanently replace the lowest blocks of `model` by pass-throughs. blocks: see `capture`."""
    blocks = find_blocks(model) if blocks is None else blocks
    replay = Replay(model)
    last: nn.Module | None = None
    for name, module in _within(blocks, cut.blocks):
        last = _PassThrough(module, cut.returns)
        _put(model, name, last)
    if cut.blocks == len(blocks):
        vars(last)["source"] = replay
        return replay

    def enter(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (replay.fed(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": replay.fed()}

    hook = blocks.first(cut.blocks).register_forward_pre_hook(enter, with_kwargs=True)
    replay.hook = hook
    return replay


def _within(blocks: Blocks, count: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of each module of the lowest `count` blocks."""
    for names, modules in zip(blocks.names[:count], blocks.modules, strict=False):
        yield from zip(names, modules, strict=True)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(model.get_submodule(parent), key, module)


@contextmanager
def cut_for_now(model: nn.Module, cut: Cut, blocks: Blocks | None = None) -> Iterator[Replay]:
    """Cut off blocks as `cut_off` does, and put them back on exit."""
    blocks = find_blocks(model) if blocks is None else blocks
    replay = cut_off(model, cut, blocks)
    try:
        yield replay
    finally:
        for name, module in _within(blocks, cut.blocks):
            _put(model, name, module)
        if replay.hook is not None:
            replay.hook.remove()


class _PassThrough(nn.Module):
    """Replaces a block. It has the block's plain attributes, which some models read. It returns its
    input, or the states of `source` where set, in the block's output form (tensor or tuple)."""

    source: Replay | None

    def __init__(self, block: nn.Module, returns: int) -> None:
        super().__init__()
        own = {k: v for k, v in vars(block).items() if not k.startswith("_") and k != "training"}
        vars(self).update(own)
        vars(self)["source"] = None
        self._returns = returns

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        states = self.source.fed() if self.source else hidden_states
        return (states, *[None] * (self._returns - 1)) if self._returns else states


def shortened(cut: Cut, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the inputs of the tokens whose states a cut keeps; pixel inputs stay whole."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return dict(inputs)
    return {name: gathered(cut, value, mask) for name, value in inputs.items()}


def gathered(cut: Cut, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Select from values (B, T, ...) those of the tokens that a cut keeps: (B, 1, ...) or all; from
    (B, C, H, W) their mean, (B, C, 1, 1)."""
    if cut.reads is None:
        return values
    if cut.reads == "mean":
        return values.mean((-2, -1), keepdim=True)
    place = _places(cut.reads, values, mask)
    return values[torch.arange(len(values)), place][:, None]


def _places(position: Position, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the index of the token at `position` in each row of values (B, T, ...), as (B,).
    Without a mask no row has padding."""
    rows, tokens = values.shape[:2]
    if position == "first":
        return torch.zeros(rows, dtype=torch.long, device=values.device)
    return torch.full((rows,), tokens - 1) if mask is None else mask.sum(1) - 1


def _position_read(model: nn.Module, blocks: Blocks, inputs: Inputs) -> Position | None:
    """Return the position of the one token of each row on whose state above the last block the
    answers depend, "mean" for states of images; None where they depend on others."""
    leaf: list[torch.Tensor] = []

    def put(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        leaf.append(hidden.detach().requires_grad_())
        return leaf[0] if isinstance(output, torch.Tensor) else (leaf[0], *output[1:])

    handle = blocks.last.register_forward_hook(put)
    try:
        with torch.enable_grad():
            total = total_of(model(**inputs))
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(total, leaf)
    if gradient.dim() == 4:
        return "mean"
    read = gradient.ne(0).any(-1)
    positions: tuple[Position, ...] = ("first", "last")
    for position in positions:
        place = _places(position, gradient, inputs.get("attention_mask"))
        if torch.equal(read, nn.functional.one_hot(place, gradient.shape[1]).bool()):
            return position
    return None
