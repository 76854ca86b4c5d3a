"""One run in MLflow: the values still to send, and how a thread sends them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ftray.errors import RegistryError
from ftray.store.database import open_client, reason, server
from ftray.store.root import Root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

R = TypeVar("R")
Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)

_NO_NAME = re.compile(r"[^\w.\-: /]")  # the characters that MLflow refuses in names
_METRICS_OF_A_BATCH = 1000  # MLflow's limits for one call of log_batch
_PARAMS_OF_A_BATCH = _TAGS_OF_A_BATCH = 100
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


class Mlflow:
    """MLflow's client for one experiment, and the time of MLflow's last answer."""

    def __init__(self, root: Root, experiment: str) -> None:
        self._root, self._name = root, experiment
        self.client = open_client(root)
        self.answered = time.monotonic()
        self._refused: set[str] = set()

    @cached_property
    def experiment(self) -> str:
        """The id of the experiment; made where there is no such experiment."""
        return self.call(_experiment_id, self.client, self._name, self._root)

    def call(self, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        result = function(*args, **kwargs)
        self.answered = time.monotonic()
        return result

    def accepted(self, run: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call `function` for a run. Drops values that MLflow refuses for their content, as MLflow
        would refuse them again, and logs one warning a run."""
        from mlflow.exceptions import MlflowException

        try:
            self.call(function, *args, **kwargs)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            if run not in self._refused:
                log.warning("MLflow refuses values of run %s: %s", run, reason(error))
            self._refused.add(run)


class TrackedRun:
    """The values of a run that MLflow lacks. Any thread may add values, and one thread sends them.

    parent: the run under which MLflow shows this one. changed: notified of every added value.
    """

    def __init__(self, name: str, parent: TrackedRun | None, changed: threading.Condition) -> None:
        self.name, self.parent = name, parent
        self.sent = False
        """Whether MLflow has all values of the run, and its end."""
        self._changed = changed
        self._tags: list[tuple[str, str]] = []
        self._params: list[tuple[str, str]] = []
        self._metrics: list[tuple[str, float, int, int]] = []
        self._status: Status | None = None
        self._id: str | None = None

    def tag(self, tags: Mapping[str, Any]) -> None:
        self._add(self._tags, [(_named(key), str(value)) for key, value in tags.items()])

    def parameters(self, params: Mapping[str, Any]) -> None:
        """Add parameters of the training. MLflow never changes a parameter once it has its
        value."""
        self._add(self._params, [(_named(key), str(value)) for key, value in params.items()])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        self._add(self._metrics, [(_named(k), float(v), now, step) for k, v in metrics.items()])

    def end(self, status: Status) -> None:
        """Mark the run as ended: no thread adds values after that. Only the first call counts."""
        with self._changed:
            self._status = self._status or status
            self._changed.notify()

    @property
    def pending(self) -> bool:
        """Whether there is anything to send."""
        if self.sent:
            return False
        told = self._tags or self._params or self._metrics or self._status
        return self._id is None or bool(told)

    @property
    def points(self) -> int:
        """The number of metric values that MLflow lacks."""
        return 0 if self.sent else len(self._metrics)

    def send(self, mlflow: Mlflow) -> None:
        """Send all pending values. Raises what MLflow raises; values not sent stay pending."""
        from mlflow.entities import Metric, Param, RunTag

        if self._id is None:
            self._begin(mlflow)
        status = self._status  # values added after the end are no part of this run
        if not self.sent:
            self._send(mlflow, "tags", RunTag, self._tags, _TAGS_OF_A_BATCH)
            self._send(mlflow, "params", Param, self._params, _PARAMS_OF_A_BATCH)
            self._send(mlflow, "metrics", Metric, self._metrics, _METRICS_OF_A_BATCH)
        if status is not None and not self.sent:
            mlflow.accepted(self.name, mlflow.client.set_terminated, self._id, status)
            self.sent = True

    def _add(self, waiting: list[Any], values: list[Any]) -> None:
        with self._changed:
            waiting += values
            self._changed.notify()

    def _send(
        self, mlflow: Mlflow, what: str, entity: Callable[..., Any], waiting: list[Any], most: int
    ) -> None:
        while waiting:
            # Other threads only append, so the first values are still the batch after sending.
            batch = {what: [entity(*values) for values in waiting[:most]]}
            mlflow.accepted(self.name, mlflow.client.log_batch, self._id, **batch)
            with self._changed:
                del waiting[: len(batch[what])]

    def _begin(self, mlflow: Mlflow) -> None:
        """Make the MLflow run, or continue the MLflow run of that name that an earlier process
        made."""
        above = self.parent and self.parent._id
        if self.parent is not None and above is None:
            raise RegistryError.of(
                "parent", self.parent.name, "is not in MLflow yet", "track it first"
            )
        tags = {"mlflow.parentRunId": above} if above else {}
        found = mlflow.call(_find, mlflow.client, mlflow.experiment, self.name, tags)
        if found is None:
            create = mlflow.client.create_run
            found = mlflow.call(create, mlflow.experiment, tags=tags, run_name=self.name)
        elif above and found.info.status == self._status != "KILLED":
            self.sent = True  # by the earlier process: a process sends the end last
        else:
            mlflow.call(mlflow.client.update_run, found.info.run_id, status="RUNNING")
        self._id = str(found.info.run_id)


def _named(key: str) -> str:
    return _NO_NAME.sub("_", key)


def _experiment_id(client: MlflowClient, name: str, root: Root) -> str:
    from mlflow.exceptions import MlflowException

    # ftray stores no artifacts in MLflow. Without a folder for them MLflow would use ./mlruns. The
    # folder is given as a URL, in which MLflow accepts any character of a path.
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


def _find(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Run | None:
    wanted = [f"attributes.run_name = '{name}'"]
    wanted += [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    found = client.search_runs([experiment], " and ".join(wanted), max_results=1)
    return found[0] if found else None
