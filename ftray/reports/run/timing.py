"""Finds where the time of a run went, from the times of its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ftray.reports.record import Event
from ftray.store.runs.metrics import ENCODING, EVALUATION

_TRAINING = "training"
_PHASES = {
    "data": "making batches, or waiting for them",
    "forward": "forward passes",
    "backward": "backward passes",
    "reduce": "adding up gradients over the workers",
    "update": "updates of the weights",
    "waiting": "waiting for the loss of the batch",
}
"""Phases of a step, as events name them -> for people."""
_LEAST_S = 0.05


class Spent(NamedTuple):
    """A part of a run's time."""

    name: str
    seconds: float


def spent_by_part(events: Sequence[Event], end: float) -> list[Spent]:
    """Return the parts of a run's time in the order in which they first occur, summed over all
    attempts. Time between the attempts does not count. end: Unix time of the run's last sign of
    life."""
    parts: dict[str, float] = {}
    stage, since = "", end
    for event in [event for event in events if "at" in event]:
        begins = event["kind"] == "stage" and event["name"] == ENCODING
        if stage and not begins:
            parts[stage] = parts.get(stage, 0.0) + max(0.0, event["at"] - since)
        since = event["at"]
        if event["kind"] in ("stage", "start"):
            stage = event.get("name", _TRAINING)
    if stage:
        parts[stage] = parts.get(stage, 0.0) + max(0.0, end - since)
    found = []
    for name, seconds in parts.items():
        found += _of_training(events, seconds) if name == _TRAINING else [Spent(name, seconds)]
    return [part for part in found if part.seconds >= _LEAST_S]


def _of_training(events: Sequence[Event], seconds: float) -> list[Spent]:
    steps = [event for event in events if event.get("kind") == "step"]
    spent = dict.fromkeys(_PHASES, 0.0)
    for step in steps:
        # Older runs have the seconds without a batch alone.
        for phase, of in step.get("phases", {"data": step.get("waited", 0.0)}).items():
            spent[phase] += of
    stepped = sum(step["seconds"] for step in steps)
    evaluated = sum(e.get(EVALUATION, 0.0) for e in events if e.get("kind") == "epoch")
    return [
        *(Spent(f"training: {_PHASES[phase]}", of) for phase, of in spent.items()),
        Spent("training: the rest of the steps", stepped - sum(spent.values())),
        Spent("training: evaluation after each epoch", evaluated),
        Spent("training: checkpoints and the rest", seconds - stepped - evaluated),
    ]
