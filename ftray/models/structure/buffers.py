"""The buffers that a model is saved with, read and written by name: running statistics and others.

A module may put another tensor in place of its buffer at any time, so each is looked up anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

Places = Mapping[str, tuple["nn.Module", str]]
"""Name in the model -> the module that has the buffer, and its name there."""


def saved_buffers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where the persistent buffers of `model` are."""
    saved = model.state_dict().keys()
    return {
        name: (module, key)
        for prefix, module in model.named_modules()
        for key, _ in module.named_buffers(recurse=False)
        if (name := f"{prefix}.{key}" if prefix else key) in saved
    }


def copied(places: Places) -> dict[str, torch.Tensor]:
    """A copy of each buffer, by name, on its device."""
    return {n: module.get_buffer(key).detach().clone() for n, (module, key) in places.items()}


def put_back(places: Places, values: Mapping[str, torch.Tensor]) -> None:
    """Write such copies into the buffers."""
    for name, (module, key) in places.items():
        module.get_buffer(key).copy_(values[name])


@contextmanager
def kept(places: Places) -> Iterator[None]:
    """What changes within is undone."""
    before = copied(places)
    try:
        yield
    finally:
        put_back(places, before)


@contextmanager
def in_mode(places: Places, training: bool) -> Iterator[None]:
    """The modules with these buffers are in train mode, or in eval mode; afterwards as before."""
    modes = {module: module.training for module, _ in places.values()}
    for module in modes:
        module.training = training
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before
