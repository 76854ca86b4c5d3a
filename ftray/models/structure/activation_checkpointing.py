"""Gradient checkpointing: recompute activations in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from typing import Any

from ftray.errors import ModelError


def enable_checkpointing(model: Any) -> None:
    """Make the blocks that are in train mode recompute their activations in the backward pass, with
    the same dropout masks. Raises ModelError when the model does not support this."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ModelError.of(
            "train.gradient_checkpointing",
            True,
            f"{type(model).__name__} cannot compute its activations again",
            "set it to false, and lower train.micro_batch_size instead",
        )
    # Only generation needs a KV cache; with one, transformers would warn in every forward pass.
    model.config.use_cache = False
    # transformers 5.23 gave the method a new name, and warns of the old one.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
