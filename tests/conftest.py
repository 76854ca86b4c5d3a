"""Fixtures shared by the tests of all folders."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from ftray.store import database
from ftray.store.root import Root
from tests.helpers.external.mlflow_server import MlflowServer
from tests.helpers.external.object_store import KEYS, ObjectStore

# Limits torch to one thread, here and in the commands that tests start. A batch with a few rows
# gains nothing from more threads, and the threads of tests that run side by side would wait for
# each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Let Python's garbage collector run less often.

    Each run would walk over all imported modules and collected tests, which never become garbage.
    """
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each new storage root of this process a copy of a registry without entries.

    MLflow's migrations take a second for each root. Processes that tests start make their own.
    """
    template, check = tmp_path_factory.mktemp("registry") / "registry.db", database._check_database

    def made(root: Root) -> None:
        check(root)
        target = Path(root.registry_database.path)
        if target.exists() or not target.parent.is_dir():
            return
        if not template.exists():
            client = database.import_quietly()(*2 * (f"sqlite:///{template}",))
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        part = template.with_name(f"{uuid4()}.db")
        shutil.copy(template, part)
        with suppress(FileExistsError):
            os.link(part, target)  # whole or not at all, where another thread makes one
        part.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_check_database", made)
        yield


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def object_store(
    _object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """An S3 server with an empty bucket, whose keys are in the environment.

    After each test, the fixture ends every fault that the test caused.
    """
    _object_store.empty()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    yield _object_store
    _object_store.mend()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()
