"""Gradient checkpointing: activations computed again instead of kept (Chen et al. 2016)."""

from __future__ import annotations

from typing import Any

from ftray.errors import ModelError


def enable_checkpointing(model: Any) -> None:
    """Have the blocks that are in train mode compute their activations again in the backward pass,
    dropout as before. Raises ModelError when the model cannot."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ModelError.of(
            "train.gradient_checkpointing",
            True,
            f"{type(model).__name__} cannot compute its activations again",
            "set it to false, and lower train.micro_batch_size instead",
        )
    # A cache of keys is for generating only, and would be told off in every forward pass.
    model.config.use_cache = False
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
