"""GPUs that people rent, by name: for an estimate of a run on a cluster that is not here, and for
the share of its peak that a GPU reaches."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftray.cluster.device import gpu_name, gpu_share
from ftray.errors import SpecError
from ftray.near import did_you_mean, nearest
from ftray.spec.schema import Spec
from ftray.train.memory.simulate import MemoryTrace

if TYPE_CHECKING:
    import torch

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
    "H100-NVL": (100, 835),
    "H100-PCIe": (85, 756),
    "H200": (150, 989),
    "B200": (192, 2250),
    "MI300X": (206, 1307),
}
_OTHERS = {"MIG", "LAPTOP", "MAX", "D"}
"""Words of names of GPUs that compute less than the GPU of the name before."""
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


def peak_of(device: torch.device) -> float | None:
    """Return the peak of a device in bf16, FLOP/s: of the share of a GPU that this process has.
    None where it is not known, as for a CPU."""
    if device.type != "cuda":
        return None
    tera = peak_by_name(gpu_name(device))
    return tera and 1e12 * tera * gpu_share()


def peak_by_name(name: str) -> int | None:
    """Return the TFLOP/s in bf16 of a GPU by the name that its driver gives it, such as NVIDIA H100
    80GB HBM3; None for others, slices of a GPU and GPUs of laptops."""
    words = set(re.split(r"[\s-]+", name.upper().replace("RTX ", "RTX")))
    parts = {known: set(known.upper().split("-")) for known in _KNOWN}
    found = [known for known in _KNOWN if parts[known] <= words]
    if not found or words & _OTHERS:
        return None
    return _KNOWN[max(found, key=lambda known: len(parts[known]))][1]


def duration(spec: Spec, trace: MemoryTrace, tokens: int, gpus: Gpus) -> Duration:
    """Estimate how long a run trains that reads `tokens` tokens, without a trunk cache."""
    speed = USED * gpus.peak * gpus.count / trace.flop_per_token
    hours = tokens / speed / 3600
    price = spec.scale.price_per_worker_hour
    return Duration(
        gpus, tokens, speed, hours, None if price is None else price * hours * gpus.count
    )


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 30 else f"{math.ceil(3600 * hours)} s"
