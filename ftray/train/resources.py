"""From the spec's `scale` to processes on the cluster that is there."""

from __future__ import annotations

from ftray.cluster import capacity
from ftray.cluster.connection import Resources
from ftray.spec.schema import Spec


def worker_resources(spec: Spec) -> Resources:
    """What one training worker gets; `gpus_per_worker: auto` is one where the cluster has any."""
    gpus = spec.scale.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if capacity.has_gpus() else 0.0
    return Resources(spec.scale.cpus_per_worker, gpus)


def trial_resources(spec: Spec) -> Resources:
    """What one worker of a trial gets; `tune.gpus_per_worker: auto` is as in training."""
    assert spec.tune is not None
    each = worker_resources(spec)
    gpus = spec.tune.gpus_per_worker
    return each if gpus == "auto" else Resources(each.cpus, gpus)


def check_scale(spec: Spec) -> None:
    """Raise ClusterError when the workers can never all run on this cluster."""
    capacity.require(spec.scale.fewest_workers, worker_resources(spec), "scale.workers")
