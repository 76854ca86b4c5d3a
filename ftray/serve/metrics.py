"""What a replica counts, and the counts of all replicas as one Prometheus page.

Every series has the labels model, version and replica. Whichever replica is asked for the page, it
asks all the others: the page is whole, and every number on it belongs to one replica alone, so a
sum or a rate over `replica` is right however many replicas there are. The counts of a replica that
was stopped leave with it, as those of a stopped process do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Snapshot = list[Metric]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("model", "version", "replica")
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counts of one replica."""

    def __init__(self, model: str, replica: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model": model, "replica": replica}
        self._requests = Counter(
            "ftray_requests",
            "HTTP requests answered, by path and status.",
            (*_LABELS, "path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ftray_predict_seconds",
            "Seconds from a prediction request's arrival at the replica to its answer.",
            _LABELS,
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "ftray_batch_rows",
            "Rows that shared a forward pass.",
            _LABELS,
            buckets=_ROWS,
            registry=self._registry,
        )
        self._shadowed = Counter(
            "ftray_shadow_rows",
            "Rows that a version in the shadow answered, by whether the label was the same.",
            (*_LABELS, "agrees"),
            registry=self._registry,
        )
        self._up = Gauge("ftray_replica_up", "1 a replica.", _LABELS, registry=self._registry)

    def count_request(self, version: str, path: str, status: int) -> None:
        labels = self._of(version)
        self._requests.labels(**labels, path=path, status=str(status)).inc()

    def count_prediction(self, version: str, seconds: float) -> None:
        self._seconds.labels(**self._of(version)).observe(seconds)

    def count_batch(self, version: int | None, rows: int) -> None:
        self._batches.labels(**self._of(version)).observe(rows)

    def count_shadow(self, version: int | None, agrees: bool) -> None:
        self._shadowed.labels(**self._of(version), agrees=str(agrees).lower()).inc()

    def snapshot(self, version: int | None) -> Snapshot:
        """All counts of the replica, whose current version that is, as they are now; can be sent to
        another process."""
        self._up.clear()
        self._up.labels(**self._of(version)).set(1)
        return list(self._registry.collect())

    def _of(self, version: int | str | None) -> dict[str, str]:
        return {**self._labels, "version": "" if version is None else str(version)}


def page(snapshots: Iterable[Snapshot]) -> bytes:
    """The counts of several replicas in Prometheus' text format."""
    return generate_latest(_Merged(snapshots))


class _Merged(Collector):
    """One family a name, with the samples of all replicas."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._families: dict[str, Metric] = {}
        for family in (family for snapshot in snapshots for family in snapshot):
            merged = self._families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            # When a counter was made is no count, and doubles the page.
            merged.samples += [s for s in family.samples if not s.name.endswith("_created")]

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()
