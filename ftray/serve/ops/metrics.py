"""The metrics of a replica, and the metrics of all replicas as one Prometheus page.

Every series has the label replica. Series that are not about a replica as a whole also have the
labels model and version. The replica that gets the request for the page asks all other replicas:
the page is whole, and every number on it belongs to one replica alone. A sum or a rate over
`replica` is therefore right however many replicas there are. The counts of a stopped replica
disappear from the page, as those of a stopped process do.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ftray.serve.interface import Versioned

Snapshot = list[Metric]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("model", "version", "replica")
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counts of one replica."""

    def __init__(self, replica: str) -> None:
        self._registry = CollectorRegistry()
        self._replica = replica
        self._requests = self._counter(
            "ftray_requests", "HTTP requests answered, by path and status.", "path", "status"
        )
        self._seconds = self._histogram(
            "ftray_predict_seconds",
            "Seconds from a prediction request's arrival at the replica to its answer.",
            _SECONDS,
        )
        self._queued = self._histogram(
            "ftray_queue_seconds",
            "Of each batch with rows of the model: how long its first row waited.",
            _SECONDS,
        )
        self._computed = self._histogram(
            "ftray_forward_seconds", "Of each batch: tokens and forward pass.", _SECONDS
        )
        self._batches = self._histogram(
            "ftray_batch_rows", "Rows of the model that shared a batch.", _ROWS
        )
        self._labelled = self._counter(
            "ftray_predictions",
            "Rows answered, by the likeliest label: when it drifts, look.",
            "label",
        )
        self._tokens = self._counter(
            "ftray_tokens", "Tokens of prompts that were read, and of answers to them.", "of"
        )
        self._first = self._histogram(
            "ftray_first_token_seconds",
            "Seconds from a request's arrival to the first token of its answer.",
            _SECONDS,
        )
        self._shadowed = self._counter(
            "ftray_shadow_rows",
            "Rows that a version in the shadow answered, by whether the label was the same.",
            "agrees",
        )
        self._up = Gauge(
            "ftray_replica_up", "1 a replica, by model.", _LABELS, registry=self._registry
        )
        self._waiting = Gauge(
            "ftray_waiting_rows",
            "Rows that wait for a batch.",
            ["replica"],
            registry=self._registry,
        )

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(name, text, (*_LABELS, *more), registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        return Histogram(name, text, _LABELS, buckets=bounds, registry=self._registry)

    def count_request(self, model: str, version: str, path: str, status: int) -> None:
        labels = self._of(model, version)
        self._requests.labels(**labels, path=path, status=str(status)).inc()

    def count_prediction(self, model: str, version: str, seconds: float) -> None:
        self._seconds.labels(**self._of(model, version)).observe(seconds)

    def count_batch(
        self, model: str, version: int | None, rows: int, queued_s: float, computed_s: float
    ) -> None:
        labels = self._of(model, version)
        self._batches.labels(**labels).observe(rows)
        self._queued.labels(**labels).observe(queued_s)
        self._computed.labels(**labels).observe(computed_s)

    def count_labels(self, model: str, version: int | None, labels: Iterable[str]) -> None:
        for label, rows in collections.Counter(labels).items():
            self._labelled.labels(**self._of(model, version), label=label).inc(rows)

    def count_answer(
        self, model: str, version: int | None, prompt_tokens: int, tokens: int, first_s: float
    ) -> None:
        """Count an answer of a model that generates. first_s: seconds to its first token."""
        labels = self._of(model, version)
        self._tokens.labels(**labels, of="prompt").inc(prompt_tokens)
        self._tokens.labels(**labels, of="answer").inc(tokens)
        self._first.labels(**labels).observe(first_s)

    def count_shadow(self, model: str, version: int | None, agrees: bool) -> None:
        self._shadowed.labels(**self._of(model, version), agrees=str(agrees).lower()).inc()

    def snapshot(self, models: Iterable[Versioned], waiting: int) -> Snapshot:
        """Return the current metrics of the replica. models: the models that it serves; waiting:
        number of rows that wait. The result can be sent to another process."""
        self._up.clear()
        for model in models:
            self._up.labels(**self._of(model.name, model.version)).set(1)
        self._waiting.labels(replica=self._replica).set(waiting)
        return list(self._registry.collect())

    def _of(self, model: str, version: int | str | None) -> dict[str, str]:
        number = "" if version is None else str(version)
        return {"model": model, "version": number, "replica": self._replica}


def page(snapshots: Iterable[Snapshot]) -> bytes:
    """Return the metrics of several replicas in Prometheus' text format."""
    return generate_latest(_Merged(snapshots))


class _Merged(Collector):
    """Merges metric families by name: one family with the samples of all replicas."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._families: dict[str, Metric] = {}
        for family in (family for snapshot in snapshots for family in snapshot):
            merged = self._families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            # Leave out the creation times of counters: they are no counts, and double the page.
            merged.samples += [s for s in family.samples if not s.name.endswith("_created")]

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()
