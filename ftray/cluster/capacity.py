"""Counts the processes that fit on the Ray cluster: on its live nodes, and on the nodes that an
autoscaler may add."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ftray.cluster.connection import Resources
from ftray.errors import ClusterError

_UNLIMITED = 1_000_000


def has_gpus() -> bool:
    """Return whether the cluster has GPUs or may grow by nodes with GPUs."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0 or any(
        count and node.get("GPU", 0) > 0 for node, count in _growth()
    )


def slots(each: Resources) -> int:
    """Count the processes of that size that the live nodes hold when no other processes run."""
    import ray

    return sum(_fit(node["Resources"], each) for node in ray.nodes() if node["Alive"])


def most_slots(each: Resources) -> int:
    """Count as `slots`, on all nodes that an autoscaler may run at once."""
    return max(slots(each), growth_slots(each))


def growth_slots(each: Resources) -> int:
    """Count the processes of that size in an autoscaler's largest cluster; 0 without autoscaler."""
    return min(sum(count * _fit(node, each) for node, count in _growth()), _limit(each))


def pool_size(each: Resources, tasks: int) -> int:
    """Return the size of a pool of such processes for `tasks` tasks, at least one."""
    return max(1, min(most_slots(each), tasks))


def require(count: int, each: Resources, key: str) -> None:
    """Raise ClusterError, naming the spec's `key`, when `count` such processes can never run."""
    room = most_slots(each)
    if room >= count:
        return
    raise ClusterError.of(
        key,
        count,
        f"the cluster has room for {room} of {each} each (it has {extent()})",
        f"set {key} to {room} or less, or add nodes"
        if room
        else "ask for fewer CPUs or GPUs per worker, or add nodes",
    )


def waiting(count: int, each: Resources) -> str | None:
    """Explain in a line for a person why `count` such processes do not start yet. Return None where
    the live nodes hold them, even if other processes run there now."""
    if slots(each) >= count:
        return None
    return f"waiting for {count} workers of {each} each: the cluster has {extent()}"


def extent() -> str:
    """Describe in words the resources that the cluster has and may grow to."""
    import ray

    total = ray.cluster_resources()
    has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    cpus, gpus = growth_slots(Resources(1)), _most_gpus()
    if not cpus:
        return has
    many = "any number of" if cpus >= _UNLIMITED else f"{cpus}"
    return f"{has}, and may grow to {many} CPUs and {gpus} GPUs"


def _most_gpus() -> int:
    return int(sum(count * node.get("GPU", 0) for node, count in _growth()))


def _fit(node: Mapping[str, float], each: Resources) -> int:
    by_cpu = node.get("CPU", 0) / each.cpus if each.cpus else math.inf
    by_gpu = node.get("GPU", 0) / each.gpus if each.gpus else math.inf
    fits = min(by_cpu, by_gpu)
    assert fits < math.inf, "a process asks for something"
    return int(fits + 1e-9)


def _growth() -> Iterator[tuple[Mapping[str, float], int]]:
    """Yield, for each kind of node that the autoscaler knows, the resources of a node and the most
    such nodes."""
    config = _autoscaler()
    for group in config.node_group_configs if config else ():
        count = _UNLIMITED if group.max_count < 0 else group.max_count
        yield dict(group.resources), count


def _limit(each: Resources) -> int:
    """Count the processes of that size within the autoscaler's limit for the whole cluster."""
    config = _autoscaler()
    limits = dict(config.max_resources) if config else {}
    sizes = each.bundle().items()
    most = [limits[name] / size for name, size in sizes if name in limits and size]
    return int(min(most, default=_UNLIMITED) + 1e-9)


def _autoscaler():  # type: ignore[no-untyped-def]  # a protobuf message of Ray's
    """Return the configuration that the autoscaler published in the cluster; None without an
    autoscaler. Ray has no public name for this call."""
    from ray._private.state import state

    return state.get_cluster_config()
