"""Fixtures shared by the tests of all folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests.helpers.mlflow_server import MlflowServer
from tests.helpers.object_store import ObjectStore

# Limits torch to one thread, here and in the commands that tests start. A batch with a few rows
# gains nothing from more threads, and the threads of tests that run side by side would wait for
# each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def object_store(_object_store: ObjectStore) -> Iterator[ObjectStore]:
    """An S3 server with an empty bucket.

    After each test, the fixture ends every fault that the test caused.
    """
    _object_store.empty()
    yield _object_store
    _object_store.mend()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()
