"""Counts the FLOP that a model needs for a token, as published figures do.

A token costs two FLOP for each weight in the forward pass, two for each weight that passes
gradients on, and two for each weight that trains (Kaplan et al. 2020): 6 N in full fine-tuning, 4 N
with adapters in all N weights, 2 N below the blocks that train, and nothing where the trunk cache
replaces them. The utilization of these model FLOP (MFU) is that of Chowdhery et al. 2022 (PaLM),
appendix B. Not counted are embeddings, which are looked up, attention to other tokens, and what is
computed a second time to save memory.
"""

from __future__ import annotations

from torch import nn

from ftray.models.structure.blocks import FreezePlan
from ftray.models.structure.groups import numbers_in


def flop_per_token(model: nn.Module, plan: FreezePlan) -> int:
    """Return the FLOP of a training step for one token of a whole model, which `plan` was applied
    to."""
    below = tuple(f"{name}." for name in plan.frozen_modules)
    found: dict[int, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue  # a head that is tied to it counts below the name of the head
        passes_on = not f"{name}.".startswith(below)
        for weight in module.parameters(recurse=False):
            found[id(weight)] = 2 * numbers_in(weight) * (1 + passes_on + weight.requires_grad)
    return sum(found.values())
