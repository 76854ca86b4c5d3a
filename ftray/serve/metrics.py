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

    def __init__(self, model: str, version: str, replica: str) -> None:
        self._registry = CollectorRegistry()
        labels = {"model": model, "version": version, "replica": replica}
        self._requests = Counter(
            "ftray_requests",
            "HTTP requests answered, by path and status.",
            (*_LABELS, "path", "status"),
            registry=self._registry,
        )
        seconds = Histogram(
            "ftray_predict_seconds",
            "Seconds from a prediction request's arrival at the replica to its answer.",
            _LABELS,
            buckets=_SECONDS,
            registry=self._registry,
        )
        batches = Histogram(
            "ftray_batch_rows",
            "Rows that shared a forward pass.",
            _LABELS,
            buckets=_ROWS,
            registry=self._registry,
        )
        up = Gauge("ftray_replica_up", "1 a replica.", _LABELS, registry=self._registry)
        self._labels = labels
        self._seconds = seconds.labels(**labels)
        self._batches = batches.labels(**labels)
        up.labels(**labels).set(1)

    def count_request(self, path: str, status: int) -> None:
        self._requests.labels(**self._labels, path=path, status=str(status)).inc()

    def count_prediction(self, seconds: float) -> None:
        self._seconds.observe(seconds)

    def count_batch(self, rows: int) -> None:
        self._batches.observe(rows)

    def snapshot(self) -> Snapshot:
        """All counts as they are now; can be sent to another process."""
        return list(self._registry.collect())


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
