"""Waits until a Ray cluster has its CPUs back."""

from __future__ import annotations

import time

import ray
from ray._private.state import actors

_PATIENCE_S = 30.0


def wait_for_free_cpus(count: int) -> None:
    """Waits until `count` CPUs are free.

    Ray takes a moment to notice that a process has ended. Raises AssertionError that names the
    living actors when the CPUs do not become free.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while ray.available_resources().get("CPU", 0) < count:
        if time.monotonic() > deadline:
            alive = [actor for actor in actors().values() if actor["State"] != "DEAD"]
            raise AssertionError(f"CPUs are still held, maybe by one of {alive}")
        time.sleep(0.2)
