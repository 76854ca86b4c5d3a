"""Runs a model on other tensors than its own: on another device for a while, or on fake tensors
that have shapes but no storage."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

Inputs = Mapping[str, torch.Tensor]
Found = TypeVar("Found")
Network = TypeVar("Network", bound=nn.Module)
_log = logging.getLogger(__name__)
_LRU_CACHE = type(lru_cache(lambda: None))


@contextmanager
def placed(
    model: nn.Module, device: torch.device, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Place `model` on `device` for the time of the context, its floating point tensors in `dtype`
    where given.

    Stand-ins replace the model's parameters and buffers. On exit the model has its own tensors and
    modes again. Nothing in the context changes their gradients, running statistics, requires_grad
    or modes.
    """
    modules = list(model.modules())
    own = [(dict(m._parameters), dict(m._buffers), m.training) for m in modules]  # noqa: SLF001
    stand_ins: dict[int, torch.Tensor] = {}

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in stand_ins:  # tied weights stay tied
            wanted = dtype if tensor.is_floating_point() else None
            trains = isinstance(tensor, nn.Parameter)
            # A forward pass may write to a buffer, but to no parameter: only buffers need a copy.
            moved = tensor.detach().to(device, wanted, copy=not trains)
            stand_ins[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if trains else moved
        return stand_ins[id(tensor)]

    try:
        for module in modules:
            for tensors in (module._parameters, module._buffers):  # noqa: SLF001
                put: dict[str, Any] = {n: stand_in(t) for n, t in tensors.items() if t is not None}
                tensors.update(put)
        yield
    finally:
        for module, (parameters, buffers, training) in zip(modules, own, strict=True):
            module.training = training
            module._parameters.update(parameters)  # noqa: SLF001
            module._buffers.update(buffers)  # noqa: SLF001


def without_numbers(
    model: nn.Module, inputs: Inputs, find: Callable[[nn.Module, Inputs], Found]
) -> Found:
    """Return the result of `find`, which runs forward passes of `model` for which only shapes
    matter.

    `find` gets a copy of the model over tensors without storage (torch's FakeTensorMode): its
    passes cost neither memory nor arithmetic, whatever the model's size and device. Where the
    forward pass reads values, `find` gets the model itself, on the model's own device.
    """
    try:
        with forgetting(model), FakeTensorMode(allow_non_fake_inputs=True):
            return find(sketch(model), {name: _outline(value) for name, value in inputs.items()})
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        _log.debug("%s runs to be looked at: %s", type(model).__name__, error)
        device = next(model.parameters()).device
        return find(model, {name: value.to(device) for name, value in inputs.items()})


@contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """Empty the caches of functions that the model's code calls, on exit. transformers keeps
    tensors in some of these caches, for all models of a class, and tensors made under
    FakeTensorMode have no values."""
    try:
        yield
    finally:
        for cache in _caches(model):
            cache.cache_clear()


def _caches(model: nn.Module) -> Iterator[Any]:
    """Yield the lru_caches in the classes of the model's submodules, and in the Python modules that
    define these classes."""
    classes = {kind for part in model.modules() for kind in type(part).__mro__}
    modules = {kind.__module__ for kind in classes if not kind.__module__.startswith("torch.")}
    owners = [kind for kind in classes if kind.__module__ in modules]
    for owner in (*owners, *(sys.modules[name] for name in modules if name in sys.modules)):
        for value in list(vars(owner).values()):
            function = value.__func__ if isinstance(value, staticmethod) else value
            inside = function.__closure__ or () if isinstance(function, FunctionType) else ()
            for found in (function, *(cell.cell_contents for cell in inside)):
                if isinstance(found, _LRU_CACHE):
                    yield found


def sketch(model: Network) -> Network:
    """Return a copy of `model` with new tensors without values, under FakeTensorMode."""
    outlines: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        outline = _outline(tensor)
        if isinstance(tensor, nn.Parameter):
            outline = nn.Parameter(outline, tensor.requires_grad)
        outlines[id(tensor)] = outline
    return copy.deepcopy(model, outlines)


def _outline(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)
