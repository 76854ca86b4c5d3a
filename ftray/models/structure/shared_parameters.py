"""Copies a model such that both copies share the memory of frozen weights; the copy takes hardly
more memory than the parameters that it trains."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

_SHARED = "ftray_shared"


def twin(model: nn.Module) -> nn.Module:
    """Return a copy of `model` whose parameters share memory with those of `model`. The copy must
    not write to a parameter before `own` has given this parameter memory of its own."""
    places: dict[int, object] = {}
    for parameter in model.parameters():
        # Each copy has its own requires_grad, hooks and gradients.
        other = nn.Parameter(parameter.detach(), parameter.requires_grad)
        setattr(other, _SHARED, True)
        places[id(parameter)] = other
    return copy.deepcopy(model, places)


def own(model: nn.Module, names: Collection[str]) -> None:
    """Give each named parameter that shares memory with a twin memory of its own."""
    for name, parameter in model.named_parameters():
        if name in names and getattr(parameter, _SHARED, False):
            parameter.data = parameter.detach().clone()
            setattr(parameter, _SHARED, False)
