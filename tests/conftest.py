"""What tests of all folders may use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tests.helpers.mlflow_server import MlflowServer
from tests.helpers.object_store import ObjectStore

# For torch, here and in commands that tests start: batches of a few rows gain nothing from more
# threads, which would wait for each other where other tests run beside these.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def object_store(_object_store: ObjectStore) -> Iterator[ObjectStore]:
    """S3 with an empty bucket; whatever a test broke works again for the next one."""
    _object_store.empty()
    yield _object_store
    _object_store.mend()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()
