"""Computes how many replicas Ray Serve keeps.

Ray Serve sends this file's code to its controller, where ftray need not be installed: the file
imports nothing of ftray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

UTILIZATION = "utilization"
"""Name of the metric that a replica reports: its work in hand, as a share of what it computes at
once. 1: the replica's batch of rows or its KV cache is full, and nothing waits."""


def replicas_for_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return the number of replicas that the work in hand fills, but at least the number of
    requests divided by the target per replica: some requests have not reached a model yet."""
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    requests = context.total_num_requests / context.config.get_target_ongoing_requests()
    reported = (context.aggregated_metrics or {}).get(UTILIZATION, {})
    return max(requests, sum(reported.values())), {}
