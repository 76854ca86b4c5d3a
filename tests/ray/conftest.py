"""Fixtures for tests with Ray: one Ray for all tests of a folder, inside the test process.

The folders run side by side, so the tests that serve are all in one folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from ftray.cluster.connection import configure, start_ray
from ftray.train.run import Trained
from tests.helpers.external.object_store import KEYS
from tests.helpers.models.tiny_model import make_model
from tests.helpers.training.free_cpus import wait_for_free_cpus
from tests.helpers.training.small_runs import Events, train_here, tree


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `ftray train` writes it."""
    return Path(make_model(tmp_path_factory.mktemp("models") / "tiny").path)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Path]:
    """The session folder of a Ray instance with two CPUs."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(KEYS)  # those of `object_store`, for all of Ray's processes
    configure()
    context = start_ray(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    yield Path(context.address_info["session_dir"])
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_cluster(ray_session: Path) -> None:
    """Ensures that Ray runs."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(ray_cluster: None) -> Iterator[None]:
    """Fails the test file that leaves CPUs occupied, not a file that runs after it."""
    yield
    wait_for_free_cpus(2)


@pytest.fixture(scope="session")
def plain_events() -> Events:
    """The events of the run `plain`."""
    return []


@pytest.fixture(scope="session")
def plain(
    ray_cluster: None, plain_events: Events, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """An uninterrupted run with two workers and ZeRO 2, with which other runs are compared."""
    folder = tmp_path_factory.mktemp("plain")
    return train_here(
        tree(folder, train={"baselines": True, "checkpoint": {"keep_after": True}}), plain_events
    )
