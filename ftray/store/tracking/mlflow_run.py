"""One run in MLflow: the values still to send, and how a thread sends them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftray.errors import RegistryError
from ftray.store.tracking.base import Status, TrackedData, TrackedRun, given
from ftray.store.tracking.mlflow_client import Mlflow

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_NO_NAME = re.compile(r"[^\w.\-: /]")  # the characters that MLflow refuses in names
_METRICS_OF_A_BATCH = 1000  # MLflow's limits for one call of log_batch
_PARAMS_OF_A_BATCH = _TAGS_OF_A_BATCH = 100
_LONGEST_DIGEST = 36  # characters


class MlflowRun(TrackedRun):
    """The values of a run that MLflow lacks. Any thread may add values, and one thread sends them.

    parent: the run under which MLflow shows this one. changed: notified of every added value.
    """

    def __init__(self, name: str, parent: MlflowRun | None, changed: threading.Condition) -> None:
        self.name, self.parent = name, parent
        self.sent = False
        """Whether MLflow has all values of the run, and its end."""
        self.id: str | None = None
        """MLflow's id of the run, once MLflow has the run."""
        self._changed = changed
        self._tags: list[tuple[str, str]] = []
        self._params: list[tuple[str, str]] = []
        self._metrics: list[tuple[str, float, int, int]] = []
        self._data: list[TrackedData] = []
        self._files: list[tuple[str, bytes]] = []
        self._status: Status | None = None

    def tag(self, tags: Mapping[str, Any]) -> None:
        self._add(self._tags, [(_named(key), str(value)) for key, value in given(tags).items()])

    def parameters(self, params: Mapping[str, Any]) -> None:
        """Add parameters of the training. MLflow never changes a parameter once it has its
        value."""
        self._add(self._params, [(_named(key), str(value)) for key, value in given(params).items()])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        self._add(self._metrics, [(_named(k), float(v), now, step) for k, v in metrics.items()])

    def data(self, splits: Sequence[TrackedData]) -> None:
        self._add(self._data, splits)

    def attach(self, name: str, content: bytes) -> None:
        self._add(self._files, [(name, content)])

    def end(self, status: Status) -> None:
        with self._changed:
            self._status = self._status or status
            self._changed.notify()

    @property
    def pending(self) -> bool:
        """Whether there is anything to send."""
        if self.sent:
            return False
        told = self._tags or self._params or self._metrics or self._data or self._files
        return self.id is None or bool(told or self._status)

    @property
    def points(self) -> int:
        """The number of metric values that MLflow lacks."""
        return 0 if self.sent else len(self._metrics)

    def send(self, mlflow: Mlflow) -> None:
        """Send all pending values. Raises what MLflow raises; values not sent stay pending."""
        from mlflow.entities import Metric, Param, RunTag

        if self.id is None:
            self._begin(mlflow)
        assert self.id is not None
        status = self._status  # values added after the end are no part of this run
        if not self.sent:
            self._batches(mlflow, "tags", RunTag, self._tags, _TAGS_OF_A_BATCH)
            self._batches(mlflow, "params", Param, self._params, _PARAMS_OF_A_BATCH)
            self._batches(mlflow, "metrics", Metric, self._metrics, _METRICS_OF_A_BATCH)
            if splits := self._data[:]:
                inputs = [_dataset_input(split) for split in splits]
                mlflow.accepted(self.name, mlflow.client.log_inputs, self.id, datasets=inputs)
                self._drop(self._data, len(splits))
            while self._files:
                mlflow.keep(self.name, self.id, *self._files[0])
                self._drop(self._files, 1)
        if status is not None and not self.sent:
            mlflow.accepted(self.name, mlflow.client.set_terminated, self.id, status)
            self.sent = True

    def _add(self, waiting: list[Any], values: Sequence[Any]) -> None:
        with self._changed:
            waiting += values
            self._changed.notify()

    def _drop(self, waiting: list[Any], count: int) -> None:
        """Drop the first values of `waiting`, which are sent: other threads only append."""
        with self._changed:
            del waiting[:count]

    def _batches(
        self, mlflow: Mlflow, what: str, entity: Callable[..., Any], waiting: list[Any], most: int
    ) -> None:
        while waiting:
            batch = {what: [entity(*values) for values in waiting[:most]]}
            mlflow.accepted(self.name, mlflow.client.log_batch, self.id, **batch)
            self._drop(waiting, len(batch[what]))

    def _begin(self, mlflow: Mlflow) -> None:
        """Make the MLflow run, or continue the MLflow run of that name that an earlier process
        made."""
        above = self.parent and self.parent.id
        if self.parent is not None and above is None:
            raise RegistryError.of(
                "parent", self.parent.name, "is not in MLflow yet", "track it first"
            )
        tags = {"mlflow.parentRunId": above} if above else {}
        found = mlflow.find(self.name, tags)
        if found is None:
            create = mlflow.client.create_run
            found = mlflow.call(create, mlflow.experiment, tags=tags, run_name=self.name)
        elif above and found.info.status == self._status != "KILLED":
            self.sent = True  # by the earlier process: a process sends the end last
        else:
            mlflow.call(mlflow.client.update_run, found.info.run_id, status="RUNNING")
        self.id = str(found.info.run_id)


def _named(key: str) -> str:
    return _NO_NAME.sub("_", key)


def _dataset_input(split: TrackedData) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [{"name": name, "type": "string"} for name in split.columns]
    dataset = Dataset(
        name=split.name,
        digest=split.digest[:_LONGEST_DIGEST],
        source_type=split.source.partition("://")[0] if "://" in split.source else "local",
        source=json.dumps({"uri": split.source}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": split.rows}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", split.use)])
