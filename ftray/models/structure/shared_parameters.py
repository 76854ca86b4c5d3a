"""A model beside another one of the same weights, in hardly more memory than what it trains."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

_SHARED = "ftray_shared"


def twin(model: nn.Module) -> nn.Module:
    """A copy of `model` whose parameters lie where those of `model` do. It must not write to one
    before `own` has given it a place of its own."""
    places: dict[int, object] = {}
    for parameter in model.parameters():
        # Which of them train is each copy's own affair, and so are hooks and gradients.
        other = nn.Parameter(parameter.detach(), parameter.requires_grad)
        setattr(other, _SHARED, True)
        places[id(parameter)] = other
    return copy.deepcopy(model, places)


def own(model: nn.Module, names: Collection[str]) -> None:
    """Give those of the named parameters that a twin shares memory of their own."""
    for name, parameter in model.named_parameters():
        if name in names and getattr(parameter, _SHARED, False):
            parameter.data = parameter.detach().clone()
            setattr(parameter, _SHARED, False)
