"""Runs the study of a sweep with Ray Tune. Each segment of an ftray trial is one Tune trial."""

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
from ftray.train.checkpoint import stored
from ftray.train.distributed.events import Event, Listener
from ftray.train.resources import trial_resources
from ftray.tune.study import Study
from ftray.tune.trial import Sweep, outcome, run_segment, step_of
from ftray.tune.trial_state import TrainUntil, TrialState


def search(
    sweep: Sweep,
    course: Study,
    concurrent: int,
    listener: Listener,
    watcher: Listener = lambda event: None,
) -> None:
    """Train the trials of the study `course` to its end, `concurrent` segments side by side.

    The listener gets {"kind": "trial", ...} when a trial begins and when a segment ends; `recall`
    rebuilds a study from these events. At the end of a segment "points" holds the events of its
    steps and epochs. The watcher gets {"kind": "trial_step", "trial", "epoch", "step", "steps",
    "points"} every few seconds while a trial runs. Raises an exception of the listener or of the
    storage, and Interrupted after Ctrl-C.
    """
    if course.over:
        return
    feed = _Feed(course, sweep, listener, watcher)
    # Tune writes its own state for a resume to this folder, but ftray resumes a sweep from the
    # run's metrics, so the folder is temporary.
    with tempfile.TemporaryDirectory(prefix="ftray-ray-tune-") as scratch:
        tuner = _tuner(sweep, course, feed, concurrent, scratch)
        feed.open()
    with softly(_stop_tune, "trials that run are ended, and begin again where they last saved"):
        tuner.fit()
    interrupted = not course.over  # Tune handles Ctrl-C itself and returns without an error
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
            # Reuse a process for several segments, as it has already imported all modules.
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
    """Stop Tune for SIGINT and SIGTERM alike, by a call of the SIGINT handler that Tune installs
    while it runs. Raises KeyboardInterrupt if Tune has installed none."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or handler is handle:
        raise KeyboardInterrupt
    handler(signal.SIGINT, None)


def _counts(course: Study) -> str:
    """Return the numbers of trials of an interrupted sweep by state, as text."""
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
    """Restore the trial states of `course` from the events that an earlier, killed driver of this
    sweep recorded."""
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
    """Return the Ray resources of a trial's own process. With one worker these are the worker's
    resources. With several, the worker group reserves its own resources, and the trial's process
    reserves one byte of memory, as Ray refuses an empty reservation."""
    assert spec.tune is not None
    if spec.tune.workers == 1:
        return tune.PlacementGroupFactory([trial_resources(spec).bundle()])
    return tune.PlacementGroupFactory([{"memory": 1}])


class _Feed(Searcher):
    """Tune's searcher: hands the segments of a study to Ray Tune, and records their outcomes."""

    def __init__(self, course: Study, sweep: Sweep, listener: Listener, watcher: Listener) -> None:
        super().__init__()
        self.course = course
        self.sweep = sweep
        self.listener = listener
        self.watcher = watcher
        self.segments: dict[str, TrainUntil] = {}
        self.points: dict[str, dict[tuple[str, int], Event]] = {}
        """Events of each running segment by (kind, step). A restarted segment, whose process died,
        reports the same steps again."""
        self.error: Exception | None = None
        """The first error of the listener or the storage; no segment begins after it. `search`
        raises it, as Tune would count an exception here as a failed trial."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its searcher to disk. This is not needed, as ftray records the study in the
        # run's folder.
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
            stored.copy(self.sweep.checkpoints(donor), self.sweep.checkpoints(trial))
        except FtrayError as error:
            self.error = error

    def open(self) -> None:
        """Send the watcher an event for each trial that ended under earlier drivers of this
        sweep."""
        for trial in self.course.trials.values():
            if trial.over or trial.error:
                self.watcher(self._event(trial))

    def close(self, interrupted: bool) -> None:
        """Send the final events of trials that are neither done nor failed: running ones are
        interrupted, waiting ones are stopped. After an interruption of the sweep waiting trials get
        no event, as they may continue later."""
        for trial in self.course.trials.values():
            if trial.running:
                self._tell(trial, "interrupted")
            elif trial.waits and trial.values and not interrupted:
                self._tell(trial, "stopped")

    def _event(self, trial: TrialState, status: str = "") -> Event:
        told = trial.to_json()
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
