"""What fits on a cluster that an autoscaler makes grow."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray._private.state import state
from ray.core.generated.autoscaler_pb2 import ClusterConfig

from ftray.cluster import capacity
from ftray.cluster.connection import Resources
from ftray.errors import ClusterError

EACH, ON_GPU = Resources(2), Resources(2, 1)


class Cluster:
    """What Ray tells of one: the live nodes, and the groups of nodes that it may have."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.nodes()
        patch.setattr(state, "get_cluster_config", lambda: None)

    def nodes(self, *resources: dict[str, float]) -> None:
        nodes = [{"Alive": True, "Resources": has} for has in resources]
        total = {name: sum(has.get(name, 0) for has in resources) for name in ("CPU", "GPU")}
        self._patch.setattr(ray, "nodes", lambda: nodes)
        self._patch.setattr(ray, "cluster_resources", lambda: total)

    def groups(
        self, *groups: tuple[int, dict[str, int]], limit: dict[str, int] | None = None
    ) -> None:
        config: Any = ClusterConfig()
        for count, resources in groups:
            group = config.node_group_configs.add(max_count=count)
            group.resources.update(resources)
        config.max_resources.update(limit or {})
        self._patch.setattr(state, "get_cluster_config", lambda: config)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_without_an_autoscaler_the_live_nodes_count(cluster: Cluster) -> None:
    cluster.nodes({"CPU": 4}, {"CPU": 3})
    assert capacity.slots(EACH) == capacity.most_slots(EACH) == 3
    with pytest.raises(ClusterError, match="room for 3 of 2 CPU each .it has 7 CPUs and 0 GPUs"):
        capacity.require(4, EACH, "scale.workers")


def test_a_cluster_scaled_to_zero_counts_what_it_may_grow_to(cluster: Cluster) -> None:
    cluster.nodes({})
    cluster.groups((3, {"CPU": 4}), (2, {"CPU": 8, "GPU": 1}))
    assert capacity.slots(EACH) == 0
    assert capacity.most_slots(EACH) == 3 * 2 + 2 * 4
    assert capacity.most_slots(ON_GPU) == 2
    capacity.require(14, EACH, "scale.workers")
    with pytest.raises(ClusterError, match="may grow to 28 CPUs and 2 GPUs"):
        capacity.require(15, EACH, "scale.workers")


def test_a_process_that_no_kind_of_node_holds_never_runs(cluster: Cluster) -> None:
    cluster.nodes({"CPU": 1})
    cluster.groups((100, {"CPU": 1}))
    with pytest.raises(ClusterError, match="room for 0 of 2 CPU each"):
        capacity.require(1, EACH, "tune.workers")


def test_the_limit_of_the_whole_cluster_holds(cluster: Cluster) -> None:
    cluster.groups((-1, {"CPU": 4}), limit={"CPU": 10})
    assert capacity.most_slots(EACH) == 5


def test_a_pool_is_never_empty(cluster: Cluster) -> None:
    assert capacity.pool_size(EACH, 7) == 1
    cluster.groups((2, {"CPU": 4}))
    assert capacity.pool_size(EACH, 7) == 4
    assert capacity.pool_size(EACH, 3) == 3


def test_gpus_that_may_come_are_gpus(cluster: Cluster) -> None:
    assert not capacity.has_gpus()
    cluster.groups((0, {"CPU": 4, "GPU": 1}))
    assert not capacity.has_gpus()
    cluster.groups((1, {"CPU": 4, "GPU": 1}))
    assert capacity.has_gpus()


def test_what_is_waited_for_is_said(cluster: Cluster) -> None:
    cluster.nodes({"CPU": 2})
    cluster.groups((4, {"CPU": 2}))
    assert capacity.waiting(1, EACH) is None
    line = (
        "waiting for 2 workers of 2 CPU each: the cluster has 2 CPUs and 0 GPUs, and may grow to 8"
    )
    assert (capacity.waiting(2, EACH) or "").startswith(line)
