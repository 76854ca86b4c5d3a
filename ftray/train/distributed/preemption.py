"""Preemption notices: a node of a Ray Train run will be taken away soon, as spot nodes are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.train import PreemptionInfo

LAST_S = 20.0
"""Seconds before the node goes at which the last checkpoint is due."""
GRACE_S = 30.0
"""Seconds that the other workers may continue after the node is gone, to finish writing."""


class Notices:
    """Decides when a checkpoint is due because a node will be preempted.

    A checkpoint is due with each new notice, and a last one shortly before the preemption. After
    the preemption Ray Train restarts the worker group on other nodes.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        read: Callable[[], PreemptionInfo | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """read: returns this worker's current notice; now: returns UNIX time in seconds."""
        self._warn, self._read, self._now = warn, read, now
        self._known: PreemptionInfo | None = None
        self._last_is_due = False

    def due(self) -> bool:
        """Return whether a checkpoint is due now. Returns true once for each due checkpoint."""
        info = self._read()
        if info is None:
            return False
        left = None if info.deadline_ms is None else info.deadline_ms / 1000 - self._now()
        if info != self._known:
            self._known = info
            self._last_is_due = left is not None and left > 2 * LAST_S
            self._warn(_line(info, left))
            return True
        if self._last_is_due and left is not None and left < LAST_S:
            self._last_is_due = False
            return True
        return False


def _line(info: PreemptionInfo, left: float | None) -> str:
    nodes = ", ".join(node[:8] for node in info.preempted_node_ids)
    when = "soon" if left is None else f"in {max(0, left):.0f} s"
    return f"node {nodes} is taken away {when}: a checkpoint is saved after this step"


def own_notice() -> PreemptionInfo | None:
    """Return the preemption notice that Ray Train gave this worker. The public function
    `ray.train.get_preemption_info` is a barrier of all workers, which is too slow for every
    step."""
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info


def no_notice() -> None:
    """Return None: a process that Ray Train did not start gets no preemption notice."""
