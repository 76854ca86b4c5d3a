"""Translates the spec's `scale` into resources of worker processes on the connected cluster."""

from __future__ import annotations

from ftray.cluster import capacity
from ftray.cluster.connection import Resources
from ftray.spec.schema import Spec


def worker_resources(spec: Spec) -> Resources:
    """Return the resources of one training worker. `gpus_per_worker: auto` means one GPU if the
    cluster has any, else none."""
    gpus = spec.scale.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if capacity.has_gpus() else 0.0
    return Resources(spec.scale.cpus_per_worker, gpus)


def trial_resources(spec: Spec) -> Resources:
    """Return the resources of one worker of a trial. `tune.gpus_per_worker: auto` means the same
    number of GPUs as in training."""
    assert spec.tune is not None
    each = worker_resources(spec)
    gpus = spec.tune.gpus_per_worker
    return each if gpus == "auto" else Resources(each.cpus, gpus)


def check_scale(spec: Spec) -> None:
    """Raise ClusterError if this cluster can never run the fewest allowed workers at once."""
    capacity.require(spec.scale.fewest_workers, worker_resources(spec), "scale.workers")
