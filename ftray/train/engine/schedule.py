"""Computes the learning rate from the step alone, so that checkpoints need no scheduler state."""

from __future__ import annotations

import math

from ftray.spec.sections.training import TrainSpec

_SLANT = 32


def learning_rate(spec: TrainSpec, step: int, steps: int) -> float:
    """Return the learning rate of step 0 <= `step` < `steps`: linear warm-up, then train.schedule.

    linear and cosine decay to 0, constant stays at the peak, and slanted, the triangle of ULMFiT
    (Howard & Ruder 2018), falls to 1/32 of the peak.
    """
    warmup = math.ceil(spec.warmup * steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    chosen = spec.schedule
    if chosen == "auto":
        chosen = "slanted" if spec.unfreeze == "gradual" else "linear"
    factors = {
        "linear": 1 - done,
        "slanted": 1 - done * (1 - 1 / _SLANT),
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "constant": 1.0,
    }
    return spec.learning_rate * factors[chosen]
