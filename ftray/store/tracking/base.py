"""The contract of a tracking service: a run and its child runs, each with tags, parameters,
metrics, data sets and files.

A tracker never fails and never delays the run that it tracks: it says once what it could not do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrackedData:
    """A split of the data, as tracking services show it.

    name: the name of the run's model, and the split; digest: of the whole data set; source: where
    the rows were read; columns: their names; use: "training", "validation" or "test".
    """

    name: str
    digest: str
    source: str
    columns: tuple[str, ...]
    rows: int
    use: str


class TrackedRun(ABC):
    """A run in a tracking service. Any thread may call its methods."""

    @abstractmethod
    def tag(self, tags: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def parameters(self, params: Mapping[str, Any]) -> None:
        """Add parameters of the training: values that are set once. Leaves out those that are
        None."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def data(self, splits: Sequence[TrackedData]) -> None:
        """Add the splits that the run reads; a service without data sets ignores them."""
        return

    @abstractmethod
    def attach(self, name: str, content: bytes) -> None:
        """Add a file. name: with `/` between its folders."""

    @abstractmethod
    def end(self, status: Status) -> None:
        """Mark the run as ended. Only the first call counts, and nothing is added after it."""


class Tracker(ABC):
    """A tracking service's view of one run and of the runs below it."""

    run: TrackedRun

    @abstractmethod
    def child(self, name: str) -> TrackedRun:
        """Add a run below the tracker's own, such as a trial of a sweep."""

    @abstractmethod
    def close(self, status: Status = "FINISHED") -> None:
        """End the run; children without an end get KILLED. Never raises."""


def given(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that have a value."""
    return {name: value for name, value in params.items() if value is not None}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"train": {"epochs": 3}} to {"train.epochs": 3}: services take only flat names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
