"""A run's parameters and metrics in MLflow.

That is a copy for people to look at: metrics.jsonl in the run folder is the record. So a `Tracker`
sends from a thread of its own, and whatever MLflow does, training neither fails nor waits for it
beyond a few seconds when the run ends.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ftray.errors import FtrayError, Problem, RegistryError
from ftray.store.database import open_client, reason, server, tracking_uri, translated
from ftray.store.root import Root

if TYPE_CHECKING:
    from mlflow import MlflowClient

R = TypeVar("R")
Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)

_SEND_EVERY = 1.0  # seconds between two batches
_RETRY_AFTER = 5.0  # seconds until a server that failed is tried again
_PATIENCE = 2.0  # seconds without an answer after which `close` gives a server up
_LOCAL_PATIENCE = 30.0  # the same for SQLite, and for importing MLflow: slow, but not dead
_LONGEST_CLOSE = 60.0  # seconds that a server which answers slowly may take in all
_KILLED_CLOSE = 4.0  # the same for a run that was asked to end: somebody waits for that
_NO_NAME = re.compile(r"[^\w.\-: /]")  # characters that MLflow refuses in names
_METRICS_OF_A_BATCH = 1000  # MLflow's limits
_PARAMS_OF_A_BATCH = 100


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 3}} as {"train.epochs": 3}: MLflow's parameters and metrics are flat."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Tracker:
    """One run in MLflow, sent by a thread. A resumed run goes on in the MLflow run it had.

    While MLflow does not answer, points are kept and sent when it does. `parent` is the run name
    of the sweep that this run is a trial of.
    """

    def __init__(
        self,
        root: Root,
        run_name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> None:
        self.run_name = run_name
        self._root, self._experiment, self._parent = root, experiment, parent
        self._params = {_NO_NAME.sub("_", key): str(value) for key, value in params.items()}
        self._tags = dict(tags)
        self._points: list[tuple[int, int, dict[str, float]]] = []
        self._status: Status | None = None
        self._changed = threading.Condition()
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._answered = time.monotonic()
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"mlflow {run_name}", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep `metrics` for sending; returns at once."""
        values = {_NO_NAME.sub("_", key): float(value) for key, value in metrics.items()}
        point = (step, _now(), values)
        with self._changed:
            self._points.append(point)
            self._changed.notify()

    def close(self, status: Status = "FINISHED") -> None:
        """Send what is left and end the run in MLflow. Gives up on a server that is down after
        2 seconds, and for a killed run after 4 in any case; never raises."""
        with self._changed:
            self._status = status
            self._changed.notify()
        closed = self._answered = time.monotonic()
        longest = _KILLED_CLOSE if status == "KILLED" else _LONGEST_CLOSE
        while self._thread.is_alive():
            self._thread.join(0.02)
            now = time.monotonic()
            silent = now - self._answered > self._patience()
            if self._thread.is_alive() and (silent or now - closed > longest):
                self._warn(Problem("registry", server() or "", "cannot be used: no answer", ""))
                break
        if self._points:
            log.warning("MLflow lacks %d points of run %s", len(self._points), self.run_name)

    def _patience(self) -> float:
        opening = self._client is None
        return _LOCAL_PATIENCE if opening or server() is None else _PATIENCE

    def _work(self) -> None:
        """The thread: send when there is something to send, at most once a second."""
        pause = 0.0
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._status is not None, timeout=pause)
                self._changed.wait_for(lambda: self._pending())
                closing = self._status is not None
            try:
                with translated(tracking_uri(self._root)):
                    self._send()
                pause = _SEND_EVERY
            except FtrayError as error:
                self._warn(error.problems[0])
                pause = _RETRY_AFTER

    def _pending(self) -> bool:
        return bool(self._points) or self._status is not None or self._run_id is None

    def _send(self) -> None:
        if self._client is None:
            self._client = open_client(self._root)
            self._answered = time.monotonic()
        if self._run_id is None:
            self._run_id = self._begin(self._client)
        while self._points:
            # The caller only ever appends, so the first ones are still those after sending.
            count, metrics = _batch(self._points)
            self._accepted(self._client.log_batch, self._run_id, metrics=metrics)
            with self._changed:
                del self._points[:count]
        if self._status is not None:
            self._call(self._client.set_terminated, self._run_id, self._status)

    def _begin(self, client: MlflowClient) -> str:
        """The id of this run's MLflow run: the one of its name, if an earlier process made it."""
        from mlflow.entities import Param

        experiment = self._call(_experiment_id, client, self._experiment, self._root)
        tags = dict(self._tags)
        if self._parent is not None:
            above = self._call(_find_run, client, experiment, self._parent)
            if above is None:
                raise RegistryError.of(
                    "parent", self._parent, "is not in MLflow yet", "track it first"
                )
            tags["mlflow.parentRunId"] = above
        run = self._call(_find_run, client, experiment, self.run_name, tags)
        if run is None:
            created = self._call(client.create_run, experiment, tags=tags, run_name=self.run_name)
            run = str(created.info.run_id)
        else:
            self._call(client.update_run, run, status="RUNNING")
        params = [Param(key, value) for key, value in self._params.items()]
        for start in range(0, len(params), _PARAMS_OF_A_BATCH):
            chosen = params[start : start + _PARAMS_OF_A_BATCH]
            self._accepted(client.log_batch, run, params=chosen)
        return run

    def _call(self, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        result = function(*args, **kwargs)
        self._answered = time.monotonic()
        return result

    def _accepted(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call; what MLflow refuses for its content is dropped, as it would be refused again."""
        from mlflow.exceptions import MlflowException

        try:
            self._call(function, *args, **kwargs)
        except MlflowException as error:
            if error.error_code not in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}:
                raise
            log.warning("MLflow refuses values of run %s: %s", self.run_name, reason(error))

    def _warn(self, problem: Problem) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow: %s %s. Run %s goes on without it: its metrics are kept in metrics.jsonl, "
                "and sent if MLflow comes back.",
                problem.value,
                problem.problem,
                self.run_name,
            )


def _batch(points: list[tuple[int, int, dict[str, float]]]) -> tuple[int, list[Any]]:
    """How many of the first points make one request, and their metrics."""
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    count = 0
    for step, when, values in points:
        if count and len(metrics) + len(values) > _METRICS_OF_A_BATCH:
            break
        metrics += [Metric(key, value, when, step) for key, value in values.items()]
        count += 1
    return count, metrics[:_METRICS_OF_A_BATCH]


def _experiment_id(client: MlflowClient, name: str, root: Root) -> str:
    from mlflow.exceptions import MlflowException

    # ftray stores no artifacts in MLflow. Without a place for them MLflow would name ./mlruns.
    # As a URL, in which MLflow takes any character of a path.
    place = None if server() else Path((root.location / "artifacts" / name).path).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    return str(found.experiment_id)


def _find_run(
    client: MlflowClient, experiment: str, run_name: str, tags: Mapping[str, str] | None = None
) -> str | None:
    wanted = f"attributes.run_name = '{run_name}'"
    if tags and "mlflow.parentRunId" in tags:
        wanted += f" and tags.`mlflow.parentRunId` = '{tags['mlflow.parentRunId']}'"
    found = client.search_runs([experiment], wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _now() -> int:
    return time.time_ns() // 1_000_000
