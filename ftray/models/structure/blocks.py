"""Chooses the parameters that train when the top N blocks are unfrozen, from the model's structure
and one forward pass, not from a list of model names.

The boundary is the hidden state that enters the first trainable block; `groups` finds the blocks.
The autograd graph tells which parameters lie below the boundary: a parameter trains exactly if the
answers depend on it and the boundary state does not. So embeddings, and relative position tables
that feed every block, stay frozen; final norm, pooler and head train.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftray.errors import ModelError
from ftray.models.structure.groups import (
    Part,
    count_blocks,
    find_blocks,
    has_blocks,
    no_blocks,
    numbers_in,
    parts_of,
)
from ftray.models.structure.probe import (
    Probe,
    Quiet,
    constant_modules,
    head_parameters,
    restored,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

Selection = int | Literal["all"] | tuple[str, ...]
"""Parameters to train: the top N blocks, all parameters, or those whose names match a pattern."""


@dataclass(frozen=True)
class FreezePlan:
    """Names of the parameters that train and of the modules that stay in eval mode."""

    trainable: tuple[str, ...]
    frozen_modules: tuple[str, ...]
    """Modules that run wholly below the boundary, and so stay in eval mode."""
    mixed_modules: tuple[str, ...]
    """Modules that apply dropout to states below the boundary but also run above it. They stay in
    eval mode; modules inside them do not."""
    blocks: int
    trainable_parameters: int
    total_parameters: int
    parts: tuple[Part, ...] = ()

    def apply(self, model: nn.Module) -> None:
        """Set requires_grad on every parameter of `model`."""
        names = set(self.trainable)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)

    def set_train_mode(self, model: nn.Module) -> None:
        """Set modules above the boundary to train mode, and those below to eval mode (no dropout).

        A module with buffers whose own parameters are all frozen is set to eval mode on either side
        of the boundary, so that BatchNorm with frozen weights keeps its running statistics.
        """
        model.train()
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if own and any(True for _ in module.buffers(recurse=False)):
                module.training = any(parameter.requires_grad for parameter in own)
        modules = dict(model.named_modules())
        for name in (*self.frozen_modules, *self.mixed_modules):
            if name in modules:  # `cut_off` may have replaced blocks since the plan was made
                modules[name].training = False


def plan_freeze(
    model: nn.Module, unfreeze: Selection, inputs: Mapping[str, torch.Tensor]
) -> FreezePlan:
    """Return the freeze plan of a selection. `inputs` is one small batch, (B, T) tensors.

    For a model without blocks in order, the selection may be all parameters, the head alone
    (0 blocks), or name patterns. Raises ModelError when the model has fewer blocks than the
    selection, no blocks in order where the selection needs one, or no parameter that matches
    a pattern.
    """
    if unfreeze == "all":
        everything = [name for name, parameter in model.named_parameters()]
        return _plan(model, everything, Quiet(), count_blocks(model))
    if isinstance(unfreeze, tuple):
        return plan_parameters(model, _matching(model, unfreeze), inputs)
    if unfreeze == 0 and not has_blocks(model):
        head = head_parameters(model, inputs)
        if head is None:
            raise no_blocks(model, "it does not say where its head begins")
        return plan_parameters(model, head, inputs)
    blocks = find_blocks(model)
    if unfreeze > len(blocks):
        raise ModelError.of(
            "train.unfreeze",
            unfreeze,
            f"the model has {len(blocks)} blocks",
            f"0 to {len(blocks)}, or all",
        )
    probe = Probe(model, blocks, len(blocks) - unfreeze)
    quiet, above = probe.run(inputs)
    return _plan(model, above, quiet, len(blocks))


def plan_parameters(
    model: nn.Module, trainable: list[str], inputs: Mapping[str, torch.Tensor]
) -> FreezePlan:
    """Return the plan in which the named parameters train. `inputs` as in `plan_freeze`."""
    with restored(model):
        quiet = constant_modules(model, trainable, inputs)
        return _plan(model, trainable, quiet, count_blocks(model))


def layer_depths(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the depth of each parameter below the head: 0 for head, pooler and final norm, 1 for
    the top block, ..., the number of blocks plus one for parameters below all blocks. Raises
    ModelError where the model has no blocks in order."""
    if not has_blocks(model):
        problem = "it has no blocks of which one lies below another"
        raise ModelError.of(
            "train.layer_decay", type(model).__name__, problem, "set train.layer_decay to 1"
        )
    blocks = find_blocks(model)
    # Outside of the blocks: below them all, between encoder and decoder, or above.
    outside = {name: len(blocks) + 1 for name, _ in model.named_parameters()}
    for first in sorted({0, blocks.encoder_blocks}):
        depth = len(blocks) + 1 - blocks.encoder_blocks if first < blocks.encoder_blocks else 0
        _, above = Probe(model, blocks, first).run(inputs)
        outside |= dict.fromkeys(above, depth)
    return {
        name: depth if (block := blocks.of(name)) is None else len(blocks) - block
        for name, depth in outside.items()
    }


def _matching(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ModelError.of(
                "train.unfreeze",
                pattern,
                "matches no parameter of the model",
                f"names are like {names[-1]} or {names[len(names) // 2]}",
            )
    return [name for name in names if any(re.search(pattern, name) for pattern in patterns)]


def _plan(model: nn.Module, trainable: list[str], quiet: Quiet, blocks: int) -> FreezePlan:
    sizes = {name: numbers_in(parameter) for name, parameter in model.named_parameters()}
    return FreezePlan(
        trainable=tuple(trainable),
        frozen_modules=quiet.frozen,
        mixed_modules=quiet.mixed,
        blocks=blocks,
        trainable_parameters=sum(sizes[name] for name in trainable),
        total_parameters=sum(sizes.values()),
        parts=parts_of(model, set(trainable)),
    )
