"""Versions and aliases in MLflow's SQLite, and what a MODEL argument means."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from ftray.errors import ModelError, RegistryError, StorageError
from ftray.models.artifact.named import find_named
from ftray.store.database import open_client
from ftray.store.deployments.promotion import promote
from ftray.store.files.location import Location, locate
from ftray.store.registry.registry import Registry
from ftray.store.root import MODEL_MANIFEST, Root
from ftray.store.tracking.mlflow_tracker import MlflowTracker

RUN = "20260101-000000-aaaaa{}"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def new_root(tmp_path: Path) -> Root:
    # A name that would break a URL which is not careful.
    return Root(locate(str(tmp_path / "my data 100% #1")))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without models: making its tables takes MLflow a second or two."""
    root = Root(locate(str(tmp_path_factory.mktemp("tables"))))
    open_client(root)
    return Path(root.registry_database.path)


@pytest.fixture
def root(new_root: Root, tables: Path) -> Root:
    Path(new_root.location.path).mkdir()
    shutil.copy(tables, new_root.registry_database.path)
    return new_root


def make_folder(root: Root, name: str, number: int = 1) -> Location:
    folder = root.models(name) / RUN.format(number)
    base = {"name_or_path": "base"}
    told = {"name": name, "run": "r", "task": "text-classification", "labels": ["a", "b"]}
    told |= {"max_length": 8, "base": base, "data_digest": "d", "spec": {}, "metrics": {}}
    (folder / "ftray.json").write_json(told | {"golden": [], "ftray_version": "0.1.0"})
    return folder


def register(root: Root, name: str, number: int = 1):
    tags = {"data_digest": "d1", "base_model": "bert"}
    return Registry(root).register(
        name, make_folder(root, name, number), RUN.format(number), {"accuracy": 0.1 * number}, tags
    )


def test_versions_aliases_and_lineage(root: Root) -> None:
    first, second = register(root, "reviews", 1), register(root, "reviews", 2)
    assert (first.version, second.version) == (1, 2)
    registry = Registry(root)
    promote(registry, "reviews:1", "production")
    assert registry.resolve("reviews").version == 2
    assert registry.resolve("reviews@latest").version == 2
    found = registry.resolve("reviews@production")
    assert found.version == 1
    assert found.aliases == ("production",)
    assert found.metrics == {"accuracy": 0.1}
    assert found.run == RUN.format(1)
    assert found.lineage["data_digest"] == "d1"
    assert found.lineage["base_model"] == "bert"
    assert (found.folder / "ftray.json").is_file()
    # An alias moves: it never points to two versions.
    promote(registry, "reviews", "production")
    assert registry.resolve("reviews@production").version == 2
    assert [v.aliases for v in registry.versions("reviews")] == [(), ("production",)]
    register(root, "other")
    assert registry.names() == ["other", "reviews"]


def test_registering_a_folder_again_gives_its_version(root: Root) -> None:
    assert [register(root, "m", 1).version for _ in range(3)] == [1, 1, 1]
    assert register(root, "m", 2).version == 2
    assert register(root, "m", 1).version == 1


def test_a_copied_root_answers_from_its_own_folders(root: Root, tmp_path: Path) -> None:
    register(root, "m")
    promote(Registry(root), "m", "best")
    copy = tmp_path / "elsewhere"
    shutil.copytree(root.location.path, copy)
    shutil.rmtree(root.location.path)
    found = find_named("m@best", str(copy))
    assert found.folder.path == str(copy / "models" / "m" / RUN.format(1))
    assert (found.name, found.version) == ("m", 1)


def test_a_wrong_reference_says_what_there_is(root: Root) -> None:
    register(root, "reviews", 1)
    register(root, "reviews", 2)
    promote(Registry(root), "reviews:1", "best")
    hints = {
        "revews": "Did you mean reviews?",
        "reviews:7": "Versions of reviews: 1@best, 2",
        "reviews@worst": "Versions of reviews: 1@best, 2",
        "reviews:best": "NAME@alias",
        "reviews@a:1": "NAME@alias",
        "": "NAME@alias",
        "it's": "Models here: reviews",
        "no/such/folder": "no such folder",
    }
    for reference, hint in hints.items():
        with pytest.raises((RegistryError, ModelError)) as caught:
            find_named(reference, str(root))
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alias", ["latest", "v3", "two words", "", "1st", "a@b"])
def test_an_alias_is_a_word_that_mlflow_does_not_reserve(root: Root, alias: str) -> None:
    with pytest.raises(RegistryError, match="not a name for an alias"):
        promote(Registry(root), "m", alias)


def test_a_version_whose_folder_is_gone_is_named(root: Root) -> None:
    version = register(root, "m")
    version.folder.delete()
    with pytest.raises(RegistryError, match=r"version 1 has no folder .*models/m"):
        Registry(root).resolve("m")


def test_a_folder_is_a_model_too(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(root, "m")
    found = find_named(folder.path, None)
    assert (found.name, found.version, found.folder.path) == ("m", None, folder.path)
    monkeypatch.chdir(Path(folder.path).parent)
    assert find_named(folder.name, None).name == "m"
    (folder / "ftray.json").write_text("{")
    with pytest.raises(ModelError, match=r"ftray.json: cannot be read"):
        find_named(folder.path, None)


def test_looking_makes_nothing(new_root: Root) -> None:
    root = new_root
    registry = Registry(root)
    registry.check()
    assert registry.names() == []
    assert registry.versions("m") == []
    with pytest.raises(RegistryError, match="no such model"):
        registry.resolve("m")
    assert not root.location.exists()


def test_only_folders_of_the_root_can_be_registered(new_root: Root, tmp_path: Path) -> None:
    outside = locate(str(tmp_path / "model"))
    with pytest.raises(RegistryError, match="outside the storage root"):
        Registry(new_root).register("m", outside, "run", {})
    assert not new_root.registry_database.exists()


def test_a_remote_root_needs_a_server(tmp_path: Path) -> None:
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI: not set"):
        Registry(Root(Location(remote, "root", "s3://bucket/root")))


def test_a_broken_database_is_said_at_once(root: Root) -> None:
    root.registry_database.write_text("no database " * 100)
    started = time.monotonic()
    with pytest.raises(RegistryError, match=r"registry.db: cannot be opened"):
        Registry(root).check()
    with pytest.raises(RegistryError):
        register(root, "m")
    assert time.monotonic() - started < 30, "and is not tried again"


def test_a_database_of_another_mlflow_says_how_to_mend_it(root: Root) -> None:
    with sqlite3.connect(root.registry_database.path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
    connection.close()
    with pytest.raises(RegistryError, match=r"another version of MLflow.*mlflow db upgrade"):
        Registry(root).names()


def test_a_root_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Registry(Root(locate(str(tmp_path / "file" / "root")))).check()


def test_a_server_that_is_down_is_said_at_once(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        Registry(root).check()
    assert time.monotonic() - started < 60, "MLflow itself tries for minutes"
    assert f"127.0.0.1:{port}: cannot be used: Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value)


_REGISTER = """
import socket, sys, time
from pathlib import Path
def no_network(*args, **kwargs):
    print("tried the network:", args, flush=True)
    raise OSError("no network here")
socket.getaddrinfo = socket.create_connection = no_network
from ftray.store import database
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import MODEL_MANIFEST, Root
from ftray.store.tracking.mlflow_tracker import MlflowTracker
root, number, others = Root(locate(sys.argv[1])), sys.argv[2], int(sys.argv[3])
folder = root.models("m") / f"20260101-000000-aaaaa{number}"
database.import_quietly()
# All go on together, once the slow imports are behind them.
ready = Path(sys.argv[1]).parent / "ready"
ready.mkdir(exist_ok=True)
(ready / f"{number}-{time.time_ns()}").touch()
while len(list(ready.iterdir())) < others:
    time.sleep(0.005)
version = Registry(root).register("m", folder, "run", {"accuracy": 1.0}).version
(Path(sys.argv[1]).parent / f"version-{number}").write_text(str(version))
time.sleep(0.5)
"""


def test_processes_that_open_a_new_registry_at_once_all_register(
    new_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And say nothing while they do, and call nobody."""
    for name in ("CI", "PYTEST_CURRENT_TEST"):  # with these MLflow's telemetry is off anyhow
        monkeypatch.delenv(name, raising=False)
    root, numbers = new_root, (1, 2, 1)
    for number in numbers:
        make_folder(root, "m", number)
    command = [sys.executable, "-c", _REGISTER, root.location.path]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(len(numbers))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in numbers
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs == ["", "", ""]
    assert [process.returncode for process in processes] == [0, 0, 0]
    versions = Registry(root).versions("m")
    assert [v.version for v in versions] == [1, 2]
    given = {n: int((tmp_path / f"version-{n}").read_text()) for n in (1, 2)}
    assert given == {int(v.folder.name[-1]): v.version for v in versions}


@pytest.mark.parametrize("name", ["50% of 100%25", "what? #1 &x=y", "é漢 [x] a+b@c:d"])
def test_a_root_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The database lies in it, and nothing beside it."""
    root = Root(locate(str(tmp_path / name)))
    registry = Registry(root)
    registry.check()
    assert list(tmp_path.iterdir()) == [], "to check makes nothing"
    registry.open_ahead()()
    assert root.registry_database.is_file()
    folder = root.models("m") / "20260101-000000-aaaaaa"
    (folder / MODEL_MANIFEST).write_json({"name": "m"})
    assert registry.register("m", folder, "run", {}).version == 1
    assert Registry(root).resolve("m").folder == folder
    tracker = MlflowTracker(root, "run-1", "m")
    tracker.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_database_that_cannot_be_opened_is_said_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"no database" * 100)
    opened = Registry(Root(locate(str(tmp_path)))).open_ahead()
    with pytest.raises(RegistryError, match="registry.db: cannot be opened: file is not a databas"):
        opened()
