"""Holds the gradients and AdamW's moments of all trained parameters, as ZeRO stage 0 does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ftray.train.engine.gradients import add_up, tables


class UnshardedState(Protocol):
    """Holds the gradients and moments of all trained parameters, for one rank or for all ranks of a
    machine.

    A step calls `add_up` where there is more than one rank, `norm`, and after the optimizer's
    update `settle`. Every rank must call all three.
    """

    def owned(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the optimizer's groups with the parameters that this rank updates."""
        ...

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Link this state to the optimizer of the groups that `owned` returned."""

    def add_up(self) -> None:
        """Replace the gradient of each parameter that this rank updates by its sum over all ranks;
        a parameter without a gradient counts as zeros."""

    def norm(self) -> torch.Tensor:
        """Return the norm of the gradients of all parameters, the same on every rank."""
        ...

    def settle(self) -> None:
        """Wait until this rank may compute with the updated parameters."""

    def moments(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """Return exp_avg and exp_avg_sq of a parameter, not as copies."""
        ...

    def close(self) -> None:
        """Leave the parameters in memory of this rank alone."""


class OwnState:
    """Implements UnshardedState in memory of this rank: every rank makes the same update."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._tables = tables(model)
        self._optimizer: torch.optim.Optimizer | None = None

    def owned(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(groups)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def add_up(self) -> None:
        add_up(self._parameters, self._tables)

    def norm(self) -> torch.Tensor:
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None:
                # No row used this parameter. DeepSpeed also reduces zeros for such a parameter.
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        return nn.utils.get_total_norm(gradients)

    def settle(self) -> None: ...

    def moments(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        assert self._optimizer is not None, "no optimizer is attached"
        found: dict[str, torch.Tensor] = self._optimizer.state[parameter]
        return found

    def close(self) -> None: ...
