"""MLflow's client for one experiment: runs are found, made and given values."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from ftray.store.database import open_client, reason, server
from ftray.store.root import Root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

R = TypeVar("R")

log = logging.getLogger(__name__)

_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


class Mlflow:
    """MLflow's client for one experiment, and the time of MLflow's last answer."""

    def __init__(self, root: Root, experiment: str) -> None:
        self._root, self._name = root, experiment
        self.client = open_client(root)
        self.answered = time.monotonic()
        self._refused: set[str] = set()
        self._keeps_files = True

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

    def keep(self, run: str, run_id: str, name: str, content: bytes) -> None:
        """Keep a file of a run among the run's artifacts. Where MLflow answers and the place of its
        artifacts does not, logs one warning and keeps no files. Raises what MLflow raises."""
        if not self._keeps_files:
            return
        path = PurePosixPath(name)
        with tempfile.TemporaryDirectory(prefix="ftray-artifact-") as folder:
            file = Path(folder) / path.name
            file.write_bytes(content)
            above = str(path.parent) if path.parent.name else None
            try:
                self.call(self.client.log_artifact, run_id, str(file), above)
            except Exception as error:  # noqa: BLE001 - each kind of store has errors of its own
                self.call(self.client.get_run, run_id)  # raises where MLflow itself is down
                self._keeps_files = False
                log.warning("MLflow keeps no files of run %s: %s", run, reason(error))

    def find(self, name: str, tags: Mapping[str, str]) -> Run | None:
        """Find the run with this name and these tags."""
        wanted = [f"attributes.run_name = '{name}'"]
        wanted += [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        search = self.client.search_runs
        found = self.call(search, [self.experiment], " and ".join(wanted), max_results=1)
        return found[0] if found else None


def _experiment_id(client: MlflowClient, name: str, root: Root) -> str:
    from mlflow.exceptions import MlflowException

    # Without a folder for artifacts MLflow would use ./mlruns. The folder is given as a URL, in
    # which MLflow accepts any character of a path.
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
