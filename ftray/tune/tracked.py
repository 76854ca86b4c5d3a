"""Records the trials of a sweep in MLflow, as child runs of the sweep's run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ftray.errors import SpecError
from ftray.spec.schema import Spec
from ftray.store.tracking.base import Status, TrackedRun, Tracker, flatten
from ftray.train.distributed.events import Event
from ftray.train.progress import BEST, EPOCH_SECONDS, MEMORY
from ftray.train.record.values import parameters, track
from ftray.tune.space import trial_spec

_ENDED: dict[str, Status] = {
    "done": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


class TrackedTrials:
    """A listener that records a search's events in MLflow. The search repeats the events of trials
    that ended under an earlier driver, as MLflow may have missed these."""

    def __init__(self, tracker: Tracker, spec: Spec) -> None:
        assert spec.tune is not None
        self._tracker, self._spec = tracker, spec
        self._perturbed = spec.tune.scheduler == "pbt"
        """Whether the scheduler may change a trial's values while it trains (pbt)."""
        self._runs: dict[str, TrackedRun] = {}
        tracker.run.tag(flatten({"tune": spec.tune.model_dump(mode="json", exclude_none=True)}))

    def __call__(self, event: Event) -> None:
        if event["kind"] == "trial":
            self._trial(event)
        # If the start of a trial could not be recorded, ignore its steps: this error ends the sweep
        # anyway.
        elif event["kind"] == "trial_step" and event["trial"] in self._runs:
            for point in event["points"]:
                track(self._runs[event["trial"]], point)

    def _trial(self, event: Event) -> None:
        name, status = event["id"], event["status"]
        begins, over = name not in self._runs, status in ("done", "stopped", "failed")
        if begins:
            self._runs[name] = self._tracker.child(f"trial {name}")
        run = self._runs[name]
        if over if self._perturbed else begins:
            run.parameters(self._parameters(event["config"]))
        if status in _ENDED:
            run.tag({"ended": status} | ({"error": event["error"]} if status == "failed" else {}))
            track(run, {"kind": "trial", "step": len(event["values"]), **_found(event)})
            run.end(_ENDED[status])
            del self._runs[name]

    def _parameters(self, config: dict[str, Any]) -> dict[str, Any]:
        try:
            return parameters(trial_spec(self._spec, config))
        except SpecError:
            return flatten(config)  # the trial itself fails with the same error and reports it


def _found(event: Event) -> dict[str, float]:
    """Return the trial's final results; MLflow has its metrics per epoch already."""
    metrics = {name: event["metrics"].get(name) for name in (BEST, MEMORY, EPOCH_SECONDS)}
    return {**metrics, "seconds": event["seconds"]}


def points_of(records: Iterable[Event], trial: str) -> list[Event]:
    """Return the events of a trial's steps and epochs from the records of its sweep."""
    found = [r for r in records if r.get("kind") == "trial" and r.get("id") == trial]
    return [point for record in found for point in record.get("points", ())]
