"""The course of a sweep, carried out by Ray Tune: each segment of a trial is a trial to it."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from ftray.errors import FtrayError, Interrupted
from ftray.interrupt import handle, softly
from ftray.spec.schema import Spec
from ftray.train import checkpoints
from ftray.train.distributed.events import Event, Listener
from ftray.train.resources import trial_resources
from ftray.tune.study import Study
from ftray.tune.table import row
from ftray.tune.trial import Sweep, outcome, run_segment, step_of
from ftray.tune.trial_state import TrainUntil, TrialState


def search(
    sweep: Sweep,
    course: Study,
    concurrent: int,
    listener: Listener,
    watcher: Listener = lambda event: None,
) -> None:
    """Carry `course` to its end, `concurrent` segments side by side.

    The listener gets {"kind": "trial", ...} when a trial begins and when a segment of it ends:
    what `recall` makes a course of, and with a segment's end in "points" the events of its steps
    and epochs. The watcher gets {"kind": "trial_step", "trial", "epoch", "step", "steps", "points"}
    now and then while a trial runs. Raises what they raise, and Interrupted after Ctrl-C.
    """
    if course.over:
        return
    feed = _Feed(course, sweep, listener, watcher)
    # Tune keeps its state there for a resume of its own; ftray resumes from the run's metrics.
    with tempfile.TemporaryDirectory(prefix="ftray-ray-tune-") as scratch:
        tuner = _tuner(sweep, course, feed, concurrent, scratch)
        feed.open()
    with softly(_stop_tune, "trials that run are ended, and begin again where they last saved"):
        tuner.fit()
    interrupted = not course.over  # Tune took Ctrl-C for itself
    if feed.error is None:
        feed.close(interrupted)
    if feed.error is not None:
        raise feed.error
    if interrupted:
        raise Interrupted.of(
            "run",
            course.spec.name,
            f"interrupted: {_counts(course)}",
            "the same command goes on from there",
        )


def _tuner(sweep: Sweep, course: Study, feed: _Feed, concurrent: int, scratch: str) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_segment, sweep=sweep), _resources(course.spec)
        ),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=feed,
            max_concurrent_trials=concurrent,
            # A process that has run a trial has imported everything for the next one.
            reuse_actors=course.section.workers == 1,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=scratch,
            failure_config=tune.FailureConfig(max_failures=course.spec.scale.max_failures),
            verbose=0,
        ),
    )


def _stop_tune() -> None:
    """SIGTERM as Ctrl-C: Tune has a handler of its own for that while it runs."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or handler is handle:
        raise KeyboardInterrupt
    handler(signal.SIGINT, None)


def _counts(course: Study) -> str:
    """Where the trials of a sweep stand that was interrupted."""
    drawn = course.drawn
    counts = {
        "done": sum(trial.over for trial in drawn),
        "failed": sum(bool(trial.error) for trial in drawn),
        "interrupted": sum(trial.running for trial in drawn),
        "paused": sum(trial.waits and bool(trial.values) for trial in drawn),
        "not begun": course.section.count
        - sum(not trial.waits or bool(trial.values) for trial in drawn),
    }
    return f"of {course.section.count} trials " + ", ".join(
        f"{count} {name}" for name, count in counts.items() if count
    )


def recall(course: Study, events: Iterable[Event]) -> None:
    """Take in what an earlier driver of this sweep, which was killed, told its listener."""
    for event in events:
        if event.get("kind") == "trial":
            trial = course.trials.get(event["id"]) or course.standing(event["id"], event["config"])
            course.trials[trial.trial] = replace(
                trial,
                values=tuple(event["values"]),
                metrics=event["metrics"],
                seconds=event["seconds"],
                over=event["status"] == "done",
                error=event.get("error", ""),
                config=event["config"],
                cloned=event.get("cloned", 0),
            )
            course.spent_before = event["elapsed"]


def _resources(spec: Spec) -> tune.PlacementGroupFactory:
    """Of the trial's own process: all that its one worker needs, or next to nothing (Ray refuses
    nothing at all) beside its group of workers."""
    assert spec.tune is not None
    if spec.tune.workers == 1:
        return tune.PlacementGroupFactory([trial_resources(spec).bundle()])
    return tune.PlacementGroupFactory([{"memory": 1}])


class _Feed(Searcher):
    """Hands the segments of a course to Ray Tune, and their outcomes back."""

    def __init__(self, course: Study, sweep: Sweep, listener: Listener, watcher: Listener) -> None:
        super().__init__()
        self.course = course
        self.sweep = sweep
        self.listener = listener
        self.watcher = watcher
        self.segments: dict[str, TrainUntil] = {}
        self.points: dict[str, dict[tuple[str, int], Event]] = {}
        """Of each segment that runs; one whose process died tells of the same steps again."""
        self.error: Exception | None = None
        """Of the listener or of the storage: Tune would make a failed trial of it. Nothing more
        begins."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune keeps its searcher on disk; ftray keeps the course itself, in the run's folder.
        return {}

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...

    def suggest(self, trial_id: str) -> Any:
        segment = self.course.next() if self.error is None else None
        if segment is not None and segment.donor:
            self._clone(segment.donor, segment.trial)
        if segment is None or self.error is not None:
            return None if self.course.running else Searcher.FINISHED
        news = segment.donor or segment.trial not in self.course.trials
        self.course.begin(segment)
        self.segments[trial_id], self.points[trial_id] = segment, {}
        trial = self.course.trials[segment.trial]
        if news:
            self._tell(trial)
        else:
            self.watcher(self._event(trial))
        return {"segment": asdict(segment)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        step = step_of(result)
        if step is not None and trial_id in self.segments:
            trial = self.segments[trial_id].trial
            self.points[trial_id] |= {(p["kind"], p["step"]): p for p in step["points"]}
            self.watcher({"kind": "trial_step", "trial": trial, **step})

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        segment = self.segments.pop(trial_id)
        points = tuple(self.points.pop(trial_id).values())
        self.course.end(segment, outcome(result, error))
        self._tell(self.course.trials[segment.trial], points=points)

    def _clone(self, donor: str, trial: str) -> None:
        try:
            checkpoints.copy(self.sweep.checkpoints(donor), self.sweep.checkpoints(trial))
        except FtrayError as error:
            self.error = error

    def open(self) -> None:
        """Tell the watcher of the trials that ended in earlier drivers of this sweep."""
        for trial in self.course.trials.values():
            if trial.over or trial.error:
                self.watcher(self._event(trial))

    def close(self, interrupted: bool) -> None:
        """Tell how trials ended that are neither done nor failed. After an interruption those that
        wait may still go on."""
        for trial in self.course.trials.values():
            if trial.running:
                self._tell(trial, "interrupted")
            elif trial.waits and trial.values and not interrupted:
                self._tell(trial, "stopped")

    def _event(self, trial: TrialState, status: str = "") -> Event:
        told = row(trial).to_json()
        if not trial.error and not trial.over:
            told["status"] = status or ("running" if trial.running else "waiting")
        more = {
            "values": trial.values,
            "cloned": trial.cloned,
            "elapsed": round(self.course.elapsed, 3),
        }
        return {"kind": "trial", **told, **more}

    def _tell(self, trial: TrialState, status: str = "", points: Sequence[Event] = ()) -> None:
        event = self._event(trial, status)
        try:
            self.listener({**event, "points": points} if points else event)
        except Exception as error:  # noqa: BLE001 - raised by `search`
            self.error = error
