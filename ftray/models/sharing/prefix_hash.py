"""Finds how many lower blocks models share: fine-tunes of one base share the blocks that no
training has changed.

Each boundary between two blocks has a digest of all weights and settings on which the hidden states
there depend. Where the digests of two models are equal, so are their hidden states for the same
tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.structure.blocks import layer_depths, plan_freeze
from ftray.models.structure.cut import Cut, Inputs, check_cut, cuttable_blocks, length_returned
from ftray.models.structure.groups import Blocks

_IDLE = re.compile(
    "id2label|label2id|num_labels|problem_type|_name_or_path|transformers_version|.*drop.*"
)
"""Config keys that do not influence the hidden states of a model in eval mode."""


@dataclass(frozen=True)
class Lineage:
    """The blocks and prefix digests of one model with L blocks."""

    blocks: Blocks
    returns: int
    """See `Cut.returns`."""
    prefixes: tuple[str, ...]
    """L + 1 digests: of the weights below each block, and below the head."""

    def shared(self, other: Lineage) -> int:
        """Count the lower blocks that both models share."""
        same = [a == b for a, b in zip(self.prefixes, other.prefixes, strict=False)]
        return (same.index(False) if False in same else len(same)) - 1


def fingerprints(model: nn.Module) -> dict[str, str]:
    """Return a digest of each parameter and buffer, by name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: _digest(tensor.detach()) for name, tensor in tensors}


def trace(model: nn.Module, known: Mapping[str, str], inputs: Inputs) -> Lineage | None:
    """Return the lineage of a model in eval mode. known: the model's fingerprints. inputs: a few
    rows of different lengths. None for a model that has no blocks in order, or that gives
    other logits when it is cut at some boundary."""
    try:
        blocks = cuttable_blocks(model)
        levels = _levels(model, len(blocks), inputs)
        # Check the cut at every boundary, since joint passes may cut the model at any of them.
        returns = length_returned(model, inputs)
        for boundary in range(1, len(blocks) + 1):
            check_cut(model, Cut(boundary, returns), inputs)
    except ModelError:
        return None
    state, prefixes = hashlib.sha256(_config(model).encode()), []
    for boundary in range(len(blocks) + 1):
        # Buffers are few: each counts from the lowest boundary on.
        for name in sorted(name for name in known if levels.get(name, 0) == boundary):
            state.update(f"{name} {known[name]}\n".encode())
        prefixes.append(state.hexdigest())
    return Lineage(blocks, returns, tuple(prefixes))


def _levels(model: nn.Module, blocks: int, inputs: Inputs) -> dict[str, int]:
    """Return the lowest boundary at which the hidden states may depend on each parameter: 0 below
    all blocks, 1 above the lowest block, ..., the number of blocks plus one for the head."""
    head = set(plan_freeze(model, 0, inputs).trainable)
    levels = {n: blocks + 1 - depth for n, depth in layer_depths(model, inputs).items()}
    # Some models have further layers between the blocks: count these from the lowest block on.
    between = {n for n, level in levels.items() if level > blocks} - head
    return {n: 1 if n in between else level for n, level in levels.items()}


def _digest(tensor: torch.Tensor) -> str:
    content = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    shape = f"{tensor.dtype} {tuple(tensor.shape)}"
    return hashlib.sha256(content).hexdigest() + shape


def _config(model: Any) -> str:
    config = {k: v for k, v in model.config.to_dict().items() if not _IDLE.fullmatch(k)}
    return json.dumps([type(model).__name__, config], sort_keys=True, default=str)
