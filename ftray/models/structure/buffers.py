"""Reads and writes a model's persistent buffers (running statistics and others) by name.

A module may replace the tensor of its buffer at any time, so these functions look up each buffer
anew on every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

Places = Mapping[str, tuple["nn.Module", str]]
"""Buffer name in the model -> the module that has the buffer, and the buffer's name there."""


def saved_buffers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the places of the persistent buffers of `model`."""
    saved = model.state_dict().keys()
    return {
        name: (module, key)
        for prefix, module in model.named_modules()
        for key, _ in module.named_buffers(recurse=False)
        if (name := f"{prefix}.{key}" if prefix else key) in saved
    }


def copied(places: Places) -> dict[str, torch.Tensor]:
    """Return a copy of each buffer, by name, on the buffer's device."""
    return {n: module.get_buffer(key).detach().clone() for n, (module, key) in places.items()}


def put_back(places: Places, values: Mapping[str, torch.Tensor]) -> None:
    """Write copies that `copied` made into the buffers."""
    for name, (module, key) in places.items():
        module.get_buffer(key).copy_(values[name])


@contextmanager
def kept(places: Places) -> Iterator[None]:
    """Restore the buffers to their former values on exit."""
    before = copied(places)
    try:
        yield
    finally:
        put_back(places, before)


@contextmanager
def in_mode(places: Places, training: bool) -> Iterator[None]:
    """Set the modules with these buffers to train mode, or to eval mode; restore it on exit."""
    modes = {module: module.training for module, _ in places.values()}
    for module in modes:
        module.training = training
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before
