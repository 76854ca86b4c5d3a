"""The learning rate as a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from ftray.spec.sections.training import TrainSpec

_SLANT = 32


def learning_rate(spec: TrainSpec, step: int, steps: int) -> float:
    """Learning rate of step 0 <= `step` < `steps`: linear warm-up, then the chosen decay to 0.

    slanted: the triangle of ULMFiT (Howard & Ruder 2018), which falls to 1/32 of the peak.
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
