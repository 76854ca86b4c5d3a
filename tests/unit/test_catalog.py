"""Several models in one replica: found by name, loaded when asked for, and let go by use."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftray.errors import ModelError
from ftray.serve.alias import Alias
from ftray.serve.backend import Answers, Unavailable
from ftray.serve.catalog import Catalog
from ftray.serve.settings import ServedModel
from ftray.serve.shelf import Shelf
from ftray.store.location import locate
from ftray.store.routes import Stop
from tests.helpers.fake_backend import INFO


def model(name: str, version: int | None = 1, alias: str | None = None) -> ServedModel:
    followed = None if alias is None else Alias("storage", name, alias, Stop(version=1, folder="m"))
    return ServedModel(locate(f"/models/{name}"), name, version, INFO, followed)


class FakeShelf:
    def __init__(self, served: ServedModel) -> None:
        self.served, self.closed = served, False
        self.current = SimpleNamespace(version=served.version, info=INFO)

    async def answer(self, texts: Any, top_k: int | None) -> Answers:
        return Answers(self.served.name, self.served.version, ("a",), [{"label": "a"}])

    def close(self) -> None:
        self.closed = True


class Bench:
    def __init__(self, *served: ServedModel, most: int = 2, broken: str = "") -> None:
        self.broken = broken
        self.started: list[FakeShelf] = []
        self.free = threading.Event()
        self.free.set()
        self.catalog = Catalog(served, self.start, most)

    def start(self, served: ServedModel) -> Shelf:
        self.free.wait()
        if served.name == self.broken:
            raise ModelError.of("golden answers", "a", "off by 0.3", "export it again")
        self.started.append(FakeShelf(served))
        return cast(Shelf, self.started[-1])

    @property
    def names(self) -> list[str]:
        return [shelf.served.address for shelf in self.started]

    async def ask(self, name: str) -> str:
        entry = self.catalog.find(name)
        assert entry is not None
        return (await entry.answer(["a"], None)).name


def test_the_least_recently_used_one_goes() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), model("c"))
        assert bench.names == ["a:1", "b:1"]
        assert [await bench.ask(name) for name in "ac"] == ["a", "c"]
        assert [shelf.closed for shelf in bench.started] == [False, True, False]
        assert await bench.ask("a") == "a"
        assert bench.names == ["a:1", "b:1", "c:1"]
        assert await bench.ask("b") == "b"
        assert bench.names == ["a:1", "b:1", "c:1", "b:1"]
        assert bench.started[2].closed and not bench.started[0].closed

    asyncio.run(run())


def test_many_who_ask_for_one_load_it_once_and_who_goes_away_takes_nobody_along() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), most=1)
        bench.free.clear()
        asking = [asyncio.create_task(bench.ask("b")) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert await bench.ask("a") == "a", "the others are answered meanwhile"
        asking[0].cancel()
        bench.free.set()
        assert await asyncio.gather(*asking[1:]) == ["b"] * 4
        assert bench.names == ["a:1", "b:1"]

    asyncio.run(run())


def test_one_that_does_not_prove_itself_fails_its_own_callers_only() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), most=1, broken="b")
        for _ in range(2):
            with pytest.raises(Unavailable, match="b:1 cannot be loaded"):
                await bench.ask("b")
        assert await bench.ask("a") == "a"
        assert not bench.started[0].closed

    asyncio.run(run())


def test_one_that_does_not_prove_itself_at_the_start_is_refused() -> None:
    with pytest.raises(ModelError, match="golden answers"):
        Bench(model("a"), model("b"), broken="b")


def test_versions_of_one_model_are_told_apart() -> None:
    served = (model("a", 3), model("a", 4), model("b", None), model("a", 4, "production"))
    catalog = Bench(*served).catalog
    asked = ["a", "a:4", "b", "a@production", "a:5", "c"]
    found = [(entry.address if (entry := catalog.find(n)) else None) for n in asked]
    assert found == ["a:3", "a:4", "b", "a@production", None, None]
    assert [e and e.version for e in (catalog.find("a", "4"), catalog.find("a", "9"))] == [4, None]
    assert catalog.find("b", "1") is catalog.find("b")


def test_what_is_not_held_is_described_by_what_was_deployed() -> None:
    entries = Bench(model("a"), model("b", 7), most=1).catalog.entries
    assert [(entry.version, entry.info) for entry in entries] == [(1, INFO), (7, INFO)]
