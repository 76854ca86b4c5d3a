"""Plans which part of the model trains in which epoch: a schedule, or a recipe of the literature.

lp-ft        linear probing, then fine-tuning (Kumar et al. 2022): only the head trains in the first
             third of the epochs, at ten times the learning rate; then all parameters train.
gradual      ULMFiT (Howard & Ruder 2018): first the head trains, then one more block after the
             other from the top, spread over the epochs of the run. The recipe includes
             discriminative learning rates (the rate of each block is that of the block above
             divided by 2.6) and slanted triangular learning rates.
top-quarter  only the top quarter of the blocks trains, which gives most of the quality of training
             all blocks (Lee et al. 2019).
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
    """A phase: from `epoch` on `selection` trains, at `rate` times the learning rate."""

    epoch: int
    selection: Selection
    rate: float = 1.0


def plan_phases(spec: TrainSpec, blocks: int) -> tuple[Phase, ...]:
    """Return the phases of a run, the first at epoch 0. `blocks`: the model's number of blocks."""
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
    """Return the learning rate of a block divided by that of the block above."""
    if spec.layer_decay != "auto":
        return spec.layer_decay
    return GRADUAL_DECAY if spec.unfreeze == "gradual" else 1.0


def index_at(phases: tuple[Phase, ...], epoch: int) -> int:
    """Return the index of the phase that `epoch` belongs to."""
    return max(i for i, phase in enumerate(phases) if phase.epoch <= epoch)


def _gradual(epochs: int, blocks: int) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    for epoch in range(epochs):
        # The embeddings count as one more layer below the blocks, unfrozen last.
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
