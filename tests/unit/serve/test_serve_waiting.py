"""A service that is deployed before its model is trained, or before its alias is set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from ftray.errors import RegistryError
from ftray.serve.app import build
from ftray.serve.settings import parse
from ftray.serve.waiting import find_once_there
from ftray.store.deployments.promotion import promote
from ftray.store.files.location import Location, locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root
from tests.helpers.serving.registered import register


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry(Root(locate(str(tmp_path / "root"))))


def settings(registry: Registry, model: str, **more: bool) -> dict[str, object]:
    return {"model": model, "storage": str(registry.root), "auth": False, **more}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the log says of the wait."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("ray.serve.ftray.serve.waiting")
    log.addHandler(handler)
    yield said
    log.removeHandler(handler)


def test_it_begins_once_the_alias_is_there_and_says_now_and_then_what_it_waits_for(
    registry: Registry, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    happens: list[Callable[[], object]] = [
        lambda: None,
        lambda: None,
        lambda: monkeypatch.setattr("ftray.serve.waiting._SAY_EVERY_S", 0.0),
        lambda: register(registry, "accuracy", 0.9),
        lambda: promote(registry, "m:1", "live"),
    ]
    waited = parse(settings(registry, "m@live", wait_for_model=True))
    [served], _ = find_once_there(waited, sleep=lambda seconds: happens.pop(0)())
    assert (served.reference, served.address) == ("m:1", "m@live")
    assert not happens
    first, again, last = lines
    assert "no such model" in first and "no such model" in again and "no such alias" in last


def test_the_builder_waits_only_where_it_is_told_to(registry: Registry) -> None:
    register(registry, "accuracy", 0.9)
    with pytest.raises(RegistryError, match="no such alias"):
        build(settings(registry, "m@live"))
    timer = threading.Timer(0.5, promote, (registry, "m:1", "live"))
    timer.start()
    try:
        build(settings(registry, "m@live", wait_for_model=True))
    finally:
        timer.join()


@pytest.mark.parametrize("model", ["m@a:1", "m@v1", "m@"])
def test_what_no_waiting_mends_fails_at_once(registry: Registry, model: str) -> None:
    with pytest.raises(RegistryError):
        build(settings(registry, model, wait_for_model=True))


def test_a_root_that_can_have_no_registry_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    root = Root(Location(remote, "root", "s3://bucket/root"))
    monkeypatch.setattr("ftray.serve.waiting.open_root", lambda storage: root)
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI"):
        build({"model": "m@live", "storage": "any", "auth": False, "wait_for_model": True})
