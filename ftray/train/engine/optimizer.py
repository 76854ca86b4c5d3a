"""AdamW and its parameter groups: the learning rate and weight decay of each parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.phases import layer_decay

SCALE = "scale"
"""Key of a parameter group: its learning rate divided by that of the schedule."""

AGE = "age"
"""Key of a parameter group: the updates that its parameters had before this optimizer."""


def adamw(groups: list[dict[str, Any]], spec: TrainSpec) -> torch.optim.Optimizer:
    """Create AdamW (Loshchilov & Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    spec: TrainSpec,
    depths: Mapping[str, int],
    ages: Mapping[str, int],
    rate: float,
) -> list[dict[str, Any]]:
    """Build one parameter group for each (rate, weight decay, age). ZeRO keeps one step count per
    group, so parameters that were unfrozen at different times must not share a group.

    depths: the number of layers that each parameter lies below the head.
    ages: the updates that each parameter has had; a missing parameter has had 0.
    """
    decay = layer_decay(spec)
    groups: dict[tuple[float, float, int], list[nn.Parameter]] = {}
    for name, parameter in sorted(parameters, key=lambda item: item[1].ndim <= 1):
        # Weight decay applies to matrices, not to norms and biases.
        weight_decay = spec.weight_decay if parameter.ndim > 1 else 0.0
        scale = rate * decay ** depths.get(name, 0)
        for own in spec.groups:
            if re.search(own.match, name):
                if own.learning_rate is not None:
                    scale = rate * own.learning_rate / spec.learning_rate
                if own.weight_decay is not None:
                    weight_decay = own.weight_decay
                break
        groups.setdefault((scale, weight_decay, ages.get(name, 0)), []).append(parameter)
    return [
        {"params": members, SCALE: scale, "weight_decay": weight_decay, AGE: age}
        for (scale, weight_decay, age), members in groups.items()
    ]
