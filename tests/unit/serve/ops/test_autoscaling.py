"""How many replicas are kept for the work in hand, as Ray Serve's own autoscaler decides."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from ftray.serve.app import build
from ftray.serve.ops.autoscaling import UTILIZATION
from ftray.serve.runners.batcher import Batcher, Limits
from tests.helpers.models.tiny_model import make_model

DEPLOYMENT = DeploymentID("m", "m")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AutoscalingConfig:
    folder = make_model(tmp_path_factory.mktemp("autoscaling") / "model").path
    settings = {"model": folder, "auth": False, "replicas": {"min": 1, "max": 9}}
    deployed = build({**settings, "batch": {"max_size": 8}})._bound_deployment
    found = deployed._deployment_config.autoscaling_config
    assert found is not None
    return found


def wanted(config: AutoscalingConfig, loads: list[float], requests: float) -> float:
    replicas = [ReplicaID(str(number), DEPLOYMENT) for number in range(len(loads))]
    context = AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="m",
        app_name="m",
        current_num_replicas=len(loads),
        target_num_replicas=len(loads),
        running_replicas=replicas,
        total_num_requests=requests,
        total_queued_requests=0,
        aggregated_metrics={UTILIZATION: dict(zip(replicas, loads, strict=True))},
        raw_metrics={},
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=config,
    )
    return float(config.policy.get_policy()(context)[0])


@pytest.mark.parametrize(
    ("loads", "requests", "replicas"),
    [
        ([0.0], 0, 0),
        ([1.0], 1, 1),
        ([6.5], 1, 6.5),  # one request of many rows
        ([2.0, 1.0], 4, 3),
        ([0.1], 24, 3),  # requests that have not come as far as the model
        ([], 0, 0),
    ],
)
def test_replicas_follow_the_work_in_hand(
    config: AutoscalingConfig, loads: list[float], requests: float, replicas: float
) -> None:
    assert wanted(config, loads, requests) == replicas


def test_a_controller_needs_no_ftray(config: AutoscalingConfig, tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_bytes(config.policy.get_serialized_policy_def() or b"")
    code = "import pickle, sys; sys.modules['ftray'] = None; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, cwd=tmp_path, timeout=120)


def test_rows_in_hand_are_those_that_wait_and_those_that_are_computed() -> None:
    free = threading.Event()

    def compute(rows: list[str]) -> list[str]:
        assert free.wait(30)
        return rows

    async def run() -> None:
        batcher = Batcher[str, str](compute, Limits(4, 0))
        asked = asyncio.create_task(batcher.submit(["a"] * 10))
        async with asyncio.timeout(30):
            while batcher.waiting != 6:
                await asyncio.sleep(0.01)
        assert batcher.in_hand == 10
        free.set()
        await asked
        assert batcher.in_hand == 0

    asyncio.run(run())
