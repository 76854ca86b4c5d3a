"""What trains in which epoch: a schedule, or one of the recipes of the literature.

lp-ft        linear probing, then fine-tuning (Kumar et al. 2022): the head alone for the first
             third of the epochs, at ten times the rate, then everything.
gradual      ULMFiT (Howard & Ruder 2018): the head first, then one block more after the other from
             the top, spread over the epochs that there are. With it go their discriminative rates
             (each block learns 2.6 times slower than the one above) and slanted triangular rates.
top-quarter  the top quarter of the blocks, which gives most of the quality of all (Lee et al.
             2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftray.models.structure.blocks import Selection
from ftray.spec.sections.training import TrainSpec

GRADUAL_DECAY = 1 / 2.6
_PROBE_RATE = 10.0


@dataclass(frozen=True)
class Phase:
    """From `epoch` on the selection trains, at `rate` times the learning rate."""

    epoch: int
    selection: Selection
    rate: float = 1.0


def plan_phases(spec: TrainSpec, blocks: int) -> tuple[Phase, ...]:
    """The phases of a run, the first at epoch 0. `blocks`: how many the model has."""
    match spec.unfreeze:
        case "lp-ft":
            return (Phase(0, 0, _PROBE_RATE), Phase(max(1, spec.epochs // 3), "all"))
        case "gradual":
            return _gradual(spec.epochs, blocks)
        case "top-quarter":
            return (Phase(0, math.ceil(blocks / 4)),)
    if spec.phases is not None:
        return tuple(Phase(p.epoch, _selection(p.blocks), p.rate) for p in spec.phases)
    return (Phase(0, _selection(spec.unfreeze)),)


def layer_decay(spec: TrainSpec) -> float:
    """Learning rate of a block over that of the block above it."""
    if spec.layer_decay != "auto":
        return spec.layer_decay
    return GRADUAL_DECAY if spec.unfreeze == "gradual" else 1.0


def index_at(phases: tuple[Phase, ...], epoch: int) -> int:
    """Which phase `epoch` belongs to."""
    return max(i for i, phase in enumerate(phases) if phase.epoch <= epoch)


def _gradual(epochs: int, blocks: int) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    for epoch in range(epochs):
        # The embeddings come last, as one more layer below the blocks.
        depth = min(blocks + 1, epoch * (blocks + 1) // (epochs - 1))
        if epochs > blocks + 2:
            depth = min(blocks + 1, epoch)
        selection: Selection = "all" if depth > blocks else depth
        if not phases or phases[-1].selection != selection:
            phases.append(Phase(epoch, selection))
    return tuple(phases)


def _selection(value: object) -> Selection:
    assert isinstance(value, (int, str, tuple))
    return 0 if value == "head" else value  # type: ignore[return-value]
