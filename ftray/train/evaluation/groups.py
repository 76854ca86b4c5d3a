"""Measures the trained model on each group of the test rows by itself."""

from __future__ import annotations

from collections.abc import Callable

from ftray.models.artifact.groups import GroupMetrics, by_group, worst_first
from ftray.models.inference.measure import Part, Split
from ftray.tasks.base import Metrics
from ftray.train.orders import Export


def measured_groups(
    order: Export, test: Split, measure: Callable[[Split], Metrics]
) -> tuple[GroupMetrics, ...]:
    """Return the metrics of the groups of `order`, the worst by train.metric first."""
    if order.groups is None:
        return ()
    metric = order.spec.train.metric
    found = by_group(order.groups, test.rows, lambda places: measure(Part(test, places)))
    return worst_first(found, metric, order.spec.info.metrics[metric] == "min")
