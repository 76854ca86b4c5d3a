"""Plays a sweep without a cluster: the real study, with trials whose metrics are made up."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.train.progress import BEST
from ftray.tune.study import Study
from ftray.tune.trial_state import Outcome, TrainUntil

SPACE: dict[str, Any] = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.batch_size": {"choice": [8, 16, 32]},
}
Metric = Callable[[TrainUntil, int], float | None]
"""(segment, epoch) -> the metric after this epoch; None if the trial fails."""


def spec(space: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Spec:
    tune = {"space": SPACE if space is None else space, **sections.pop("tune", {})}
    base = {"name": "m", "model": {"name_or_path": "x"}, "data": {"train": "a.csv"}}
    return parse({**base, **sections, "tune": tune})


def by_batch_and_rate(segment: TrainUntil, epoch: int) -> float:
    """A metric that rises with the epochs, keeps the trials' order, and is best for a high rate."""
    return segment.config["train.learning_rate"] + epoch


class Player:
    """Carries out a study with `slots` segments side by side.

    The segments end in an order drawn from `seed`.
    """

    def __init__(self, course: Study, metric: Metric, slots: int = 1, seed: int = 0) -> None:
        self.course, self.metric, self.slots = course, metric, slots
        self.random = random.Random(seed)
        self.running: list[TrainUntil] = []
        self.played: list[TrainUntil] = []
        self.events: list[dict[str, Any]] = []
        self.busy: list[int] = []
        """Number of busy slots, at each end of a segment."""

    def play(self, ends: int | None = None) -> None:
        """Plays to the end, or until `ends` segments have ended: then the driver is killed."""
        while ends is None or len(self.played) < ends:
            while len(self.running) < self.slots and (segment := self.course.next()):
                self.course.begin(segment)
                self.running.append(segment)
                self._tell(segment)
            if not self.running:
                assert self.course.over
                return
            self.busy.append(len(self.running))
            self._end(self.running.pop(self.random.randrange(len(self.running))))

    def _end(self, segment: TrainUntil) -> None:
        values = [self.metric(segment, epoch) for epoch in range(1, segment.until + 1)]
        known = [value for value in values if value is not None]
        trial = self.course.trials[segment.trial]
        failed = "it diverged" if len(known) < len(values) else ""
        seconds = 60.0 * (segment.until - len(trial.values))
        metrics = {BEST: known[-1]} if known else {}
        over = segment.until == trial.epochs and not failed
        outcome = Outcome(tuple(known), metrics, seconds, over, failed)
        self.course.end(segment, outcome)
        self.played.append(segment)
        self._tell(segment)

    def _tell(self, segment: TrainUntil) -> None:
        trial = self.course.trials[segment.trial]
        told = {"id": trial.trial, "elapsed": 0.0, "status": "done" if trial.over else "waiting"}
        event = {**asdict(trial), **told, "kind": "trial"}
        self.events.append(json.loads(json.dumps(event)))
