"""GPUs that people rent, by name: for an estimate of a run on a cluster that is not here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ftray.errors import SpecError
from ftray.near import did_you_mean, nearest
from ftray.spec.schema import Spec
from ftray.train.memory.simulate import MemoryTrace

_GB = 10**9
_KNOWN = {
    # name: (GB of memory as torch reports it, dense bf16 TFLOP/s), by the makers' data sheets
    "A10": (24, 125),
    "A10G": (24, 70),
    "L4": (24, 121),
    "L40S": (48, 362),
    "RTX4090": (25, 165),
    "A100-40": (42, 312),
    "A100": (85, 312),
    "H100": (85, 989),
    "H200": (150, 989),
    "B200": (192, 2250),
    "MI300X": (206, 1307),
}
_FORM = re.compile(r"(?:(\d+)\s*x\s*)?([A-Za-z][\w-]*)")
USED = 0.4
"""Share of the peak that fine-tuning reaches, about: published figures for one H100 are 33 to 43 %
(torchtitan, NeMo)."""


@dataclass(frozen=True)
class Gpus:
    """Equal GPUs, one for each worker. memory: bytes of each; peak: FLOP/s of each in bf16."""

    count: int
    name: str
    memory: int
    peak: float

    @classmethod
    def of(cls, text: str) -> Gpus:
        """Read "8xH100" or "L4". Raises SpecError."""
        found = _FORM.fullmatch(text.strip())
        names = {name.upper(): name for name in _KNOWN}
        name = names.get(found[2].upper()) if found else None
        count = int(found[1] or 1) if found else 0
        if name is None or not count:
            fix = f"write COUNTxNAME, with one of {', '.join(_KNOWN)}"
            close = nearest(found[2], _KNOWN) if found and name is None else None
            raise SpecError.of("--gpus", text, "no such GPUs", did_you_mean(close, fix))
        memory, tera = _KNOWN[name]
        return cls(count, name, memory * _GB, tera * 1e12)

    def __str__(self) -> str:
        return f"{self.count} x {self.name}"


@dataclass(frozen=True)
class Duration:
    """Predicts how long a training takes. tokens_per_s: of all GPUs together; cost: None where the
    GPUs have no price."""

    gpus: Gpus
    tokens: int
    tokens_per_s: float
    hours: float
    cost: float | None

    def line(self) -> str:
        spent = self.hours * self.gpus.count
        price = "" if self.cost is None else f", {self.cost:,.2f} at scale.price_per_worker_hour"
        return (
            f"on {self.gpus} at {USED:.0%} of their peak, as large models reach: "
            f"{self.tokens_per_s:,.0f} tokens/s, {self.tokens:,} tokens in {_time(self.hours)} "
            f"({spent:,.2f} GPU-hours{price})"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "gpus": str(self.gpus),
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens_per_s),
            "hours": self.hours,
            "cost": self.cost,
        }


def duration(spec: Spec, trace: MemoryTrace, tokens: int, gpus: Gpus) -> Duration:
    """Estimate how long a run trains that reads `tokens` tokens, without a trunk cache.

    A token costs two FLOP for each weight in the forward pass, two for each weight that passes
    gradients on, and two for each weight that trains (Kaplan et al. 2020): 6 N in full fine-tuning,
    4 N with adapters in all N weights.
    """
    above = trace.trainable
    if spec.train.lora is not None:
        wanted = spec.train.unfreeze
        share = wanted / trace.blocks if isinstance(wanted, int) and trace.blocks else 1.0
        above = int(min(1.0, share) * trace.parameters)
    flop = 2 * (trace.parameters + above + trace.trainable)
    speed = USED * gpus.peak * gpus.count / flop
    hours = tokens / speed / 3600
    price = spec.scale.price_per_worker_hour
    return Duration(
        gpus, tokens, speed, hours, None if price is None else price * hours * gpus.count
    )


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 30 else f"{math.ceil(3600 * hours)} s"
