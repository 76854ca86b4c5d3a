"""Trains a segment of a trial in a Ray Tune process, which trains several segments in turn.

A trial with one worker runs the training loop in this process, which saves the start of a worker
group. A trial with several workers starts its own worker group.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftray.data.encoding.encode import EncodedDataset
from ftray.errors import FtrayError
from ftray.models.structure.shared_parameters import twin
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.runs.folder import Fence
from ftray.tasks.schema import Schema
from ftray.train import loop
from ftray.train.base import Base, load_base
from ftray.train.checkpoint import stored
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.context import build, latest
from ftray.train.distributed.context import alone
from ftray.train.distributed.events import Event, listening
from ftray.train.distributed.process import forget_peak_memory, peak_memory, settle
from ftray.train.orders import WorkerArgs
from ftray.train.progress import BEST, EPOCH_SECONDS, MEMORY, Progress
from ftray.train.ray.trainer import fit_workers
from ftray.train.trunk_cache.cache import TrunkCache
from ftray.tune.space import trial_spec
from ftray.tune.trial_state import Outcome, TrainUntil

# Keys of the final report of a segment to Tune.
_VALUES, _METRICS, _OVER, _ERROR = "values", "metrics", "over", "error"
_AT = "at"
"""Key of interim reports: the epoch, the step, and the steps of the whole trial."""
_POINTS = "points"
"""Key of all reports: the events of steps and epochs since the previous report."""
_TELL_EVERY_S = 2.0
_STEPS_TOLD = 100
"""Most steps that a trial reports, enough for its curve: a sweep may have hundreds of trials."""
_OF_A_STEP = ("kind", "step", "epoch", "loss", "learning_rate")


@dataclass(frozen=True)
class Sweep:
    """The data that all trials of a sweep share."""

    spec: Spec
    data: EncodedDataset
    kept: Location
    """The folder with the checkpoints of all trials."""
    trunks: tuple[TrunkCache, ...] = ()
    fence: Fence | None = None
    """Checks whether this driver still owns the sweep."""

    def checkpoints(self, trial: str) -> Location:
        """Return the folder for the checkpoints of a trial."""
        return self.kept / trial / "checkpoints"


def run_segment(config: dict[str, Any], sweep: Sweep) -> None:
    """Train the segment in `config` and report its results to Tune.

    A trial that cannot train (it diverged, or its values do not fit the model) reports its error
    and ends; the sweep continues.
    """
    from ray import tune

    segment = TrainUntil(**config["segment"])
    forget_peak_memory()
    teller = _Teller()
    try:
        spec = trial_spec(sweep.spec, segment.config)
        run = _train_here if spec.scale.workers == 1 else _train_in_group
        progress = run(spec, segment, sweep, teller)
    except FtrayError as error:
        tune.report({_ERROR: str(error), **teller.news()})
        return
    last = {k: v for k, v in progress.history[-1].items() if isinstance(v, (int, float))}
    if spec.scale.workers == 1 and (held := peak_memory()) is not None:
        last[MEMORY] = held
    found = {
        _VALUES: progress.bests(spec.train),
        _METRICS: [*last.items(), (BEST, progress.best)],  # Tune would flatten a mapping
        _OVER: progress.is_over(spec.train),
    }
    tune.report({**found, **teller.news()})


def outcome(reported: Mapping[str, Any] | None, died: bool) -> Outcome:
    """Return the outcome of a segment from its last report. `died`: its process died more often
    than scale.max_failures allows."""
    told = reported or {}
    return Outcome(
        values=tuple(told.get(_VALUES, ())),
        metrics=dict(told.get(_METRICS, ())),
        seconds=told.get("time_total_s", 0.0),
        over=told.get(_OVER, False),
        error=told.get(_ERROR, "") or ("its process died" if died or not told else ""),
    )


def step_of(reported: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the epoch, step and steps of a trial from a report, and its `points` since the
    previous report; None before the first step."""
    if _AT not in reported:
        return None
    at = zip(("epoch", "step", "steps"), reported[_AT], strict=True)
    return {**dict(at), "points": reported[_POINTS]}


class _Teller:
    """The Observer of a trial: reports progress to Tune, at most every `_TELL_EVERY_S` seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()
        self._at: tuple[int, ...] = ()
        self._points: list[Event] = []

    def hear(self, event: Event) -> None:
        """Process an event of the training loop, in this process or in the trial's workers."""
        if event["kind"] == "epoch":
            self._points.append(event)
        if event["kind"] == "step":
            self._at = (event["epoch"], event["step"], event["steps"])
            if event["step"] % math.ceil(event["steps"] / _STEPS_TOLD) == 0:
                self._points.append({key: event[key] for key in _OF_A_STEP})
            if time.monotonic() - self._told >= _TELL_EVERY_S:
                from ray import tune

                self._told = time.monotonic()
                tune.report(self.news())

    def news(self) -> dict[str, Any]:
        """Return the events since the previous report, and mark them as reported."""
        points, self._points = tuple(self._points), []
        return {_AT: self._at, _POINTS: points} if self._at else {}

    def phase(self, progress: Progress) -> None: ...

    def alive(self) -> None: ...

    def step(self, event: Event) -> None:
        self.hear({"kind": "step", **event})

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.hear({"kind": "epoch", **metrics})

    def warn(self, line: str) -> None: ...

    def stopping(self) -> bool:
        return False


def _train_here(spec: Spec, segment: TrainUntil, sweep: Sweep, teller: _Teller) -> Progress:
    settle(spec)
    pristine = base_of(spec, sweep.data.schema)
    base = replace(pristine, model=twin(pristine.model))
    folder = sweep.checkpoints(segment.trial)
    with latest(folder, alone(), teller.warn) as found:
        setup, progress = build(spec, sweep.data, base, alone(), found, sweep.trunks)
    # A trial that trains to its last epoch needs no checkpoint if the sweep trains the winner again
    # (tune.refit), as nothing reads the checkpoint.
    needed = segment.until < spec.train.epochs or not _refits(sweep.spec)
    kept = folder if needed else None
    keeper = CheckpointManager(spec.train.checkpoint, kept, writes=True, fence=sweep.fence)
    epoch, started = progress.epoch, time.perf_counter()
    try:
        loop.run(setup, progress, keeper, teller, segment.until)
    finally:
        keeper.wait()
        setup.phased.close()
    seconds = time.perf_counter() - started
    progress.history[-1][EPOCH_SECONDS] = seconds / max(1, progress.epoch - epoch)
    return progress


def _refits(spec: Spec) -> bool:
    assert spec.tune is not None
    return spec.tune.refit


def _train_in_group(spec: Spec, segment: TrainUntil, sweep: Sweep, teller: _Teller) -> Progress:
    folder, until = sweep.checkpoints(segment.trial), segment.until
    with listening(teller.hear) as sender:
        job = WorkerArgs(spec, sweep.data, folder, sender, None, sweep.trunks, until, sweep.fence)
        fit_workers(job, spec.scale.max_failures)
    newest = stored.latest(folder)
    assert newest is not None, "a group that ended well has written a checkpoint"
    with newest.folder.as_local() as local:
        return stored.read_progress(local)


_loaded: list[tuple[Any, Base]] = []
"""What decides the base model that this process loaded last, and this model."""


def base_of(spec: Spec, schema: Schema) -> Base:
    """Load the base model; this process reads it from disk once for all trials that begin with the
    same one."""
    rest = (spec.train.dropout, spec.train.weights, spec.data.max_length, spec.options)
    key = (spec.model, spec.task, spec.seed, schema, *rest)
    if not _loaded or _loaded[0][0] != key:
        _loaded.clear()
        _loaded.append((key, load_base(spec, schema)))
    return _loaded[0][1]
