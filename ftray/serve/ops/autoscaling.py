"""How many replicas Ray Serve keeps.

Ray Serve sends this file's code to its controller, where ftray need not be installed: the file
imports nothing of ftray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

UTILIZATION = "utilization"
"""What a replica reports: its work in hand, as a share of what it computes at once. 1: its batch of
rows, or its room for tokens, is full and nothing waits."""


def replicas_for_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return as many replicas as the work in hand fills, and no fewer than the number of requests
    asks for: some requests have not reached a model yet."""
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    requests = context.total_num_requests / context.config.get_target_ongoing_requests()
    reported = (context.aggregated_metrics or {}).get(UTILIZATION, {})
    return max(requests, sum(reported.values())), {}
