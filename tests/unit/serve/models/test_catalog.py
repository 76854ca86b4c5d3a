"""Several models in one replica: found by name, loaded when asked for, and let go by use."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any, cast
from weakref import WeakSet

import pytest

from ftray.errors import ModelError
from ftray.serve.interface import Answers, Overloaded, TooLate, Unavailable
from ftray.serve.models.alias import Alias
from ftray.serve.models.live import Live
from ftray.serve.models.model_cache import ModelCache
from ftray.serve.models.slots import Slots
from ftray.serve.models.versions import VersionRouter
from ftray.serve.settings import ServedModel
from ftray.store.deployments.routes import VersionRef
from ftray.store.files.location import locate
from tests.helpers.serving.fake_backend import INFO


def model(name: str, version: int | None = 1, alias: str | None = None) -> ServedModel:
    followed = (
        None if alias is None else Alias("storage", name, alias, VersionRef(version=1, folder="m"))
    )
    return ServedModel(locate(f"/models/{name}"), name, version, INFO, alias=followed)


class FakeLive:
    """Takes a slot as long as something refers to it."""

    def __init__(self, served: ServedModel) -> None:
        self.version, self.info = served.version, INFO

    @property
    def loaded(self) -> FakeLive:
        return self


class FakeShelf:
    def __init__(self, bench: Bench, served: ServedModel, live: Live) -> None:
        self.bench, self.served, self.current = bench, served, live

    async def answer(self, texts: Any, top_k: int | None) -> Answers:
        await self.bench.free.wait()
        return Answers(self.served.name, self.served.version, ("a",), [{"label": "a"}], ["a"])

    def close(self) -> None:
        self.bench.closed.append(self.served.address)


class Bench:
    """A catalog of made-up models. started, closed: addresses, in their order; most_loaded: at
    once; can_load: set while loading goes on; free: while models answer."""

    def __init__(
        self, *served: ServedModel, most: int = 2, broken: str = "", wait_s: float = 20
    ) -> None:
        self.broken = broken
        self.started: list[str] = []
        self.closed: list[str] = []
        self.most_loaded = 0
        self._loaded: WeakSet[FakeLive] = WeakSet()
        self.can_load, self.free = threading.Event(), asyncio.Event()
        self.can_load.set()
        self.free.set()
        self.catalog = ModelCache(served, self.start, most, wait_s)

    def start(self, served: ServedModel, slots: Slots) -> VersionRouter:
        live = slots.hold(served.address, lambda: self._load(served))
        return cast(VersionRouter, FakeShelf(self, served, live))

    def _load(self, served: ServedModel) -> Live:
        live = FakeLive(served)
        self._loaded.add(live)
        self.most_loaded = max(self.most_loaded, len(self._loaded))
        assert self.can_load.wait(20)
        self.started.append(served.address)
        if served.name == self.broken:
            raise ModelError.of("golden answers", "a", "off by 0.3", "export it again")
        return cast(Live, live)

    async def ask(self, name: str) -> str:
        entry = self.catalog.find(name)
        assert entry is not None
        return (await entry.answer(["a"], None)).name


def test_the_least_recently_used_one_goes() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), model("c"))
        assert bench.started == ["a:1", "b:1"]
        assert [await bench.ask(name) for name in "ac"] == ["a", "c"]
        assert bench.closed == ["b:1"]
        assert await bench.ask("a") == "a"
        assert bench.started == ["a:1", "b:1", "c:1"]
        assert await bench.ask("b") == "b"
        assert bench.started == ["a:1", "b:1", "c:1", "b:1"]
        assert bench.closed == ["b:1", "c:1"]

    asyncio.run(run())


def test_many_who_ask_for_one_load_it_once_and_who_goes_away_takes_nobody_along() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), model("c"))
        bench.can_load.clear()
        asking = [asyncio.create_task(bench.ask("c")) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert await bench.ask("b") == "b", "the others are answered meanwhile"
        asking[0].cancel()
        bench.can_load.set()
        assert await asyncio.gather(*asking[1:]) == ["c"] * 4
        assert bench.started == ["a:1", "b:1", "c:1"]

    asyncio.run(run())


def test_no_more_are_loaded_at_once_than_may_be_however_many_are_asked_for() -> None:
    async def run() -> None:
        names = "abcdefgh"
        bench = Bench(*map(model, names), most=3)
        rng = random.Random(0)
        asked = [rng.choice(names) for _ in range(60)]
        assert await asyncio.gather(*map(bench.ask, asked)) == asked
        assert bench.most_loaded == 3

    asyncio.run(run())


def test_one_that_was_let_go_takes_its_room_until_its_last_request_ends() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), most=1, wait_s=0.3)
        bench.free.clear()
        slow = asyncio.create_task(bench.ask("a"))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as caught:
            await bench.ask("b")
        assert caught.value.retry_after_s >= 1
        bench.free.set()
        assert await slow == "a"
        del slow
        assert await bench.ask("b") == "b"
        assert bench.most_loaded == 1

    asyncio.run(run())


def test_who_waits_too_long_for_a_model_is_told_and_the_next_one_finds_it() -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), most=1, wait_s=0.2)
        bench.can_load.clear()
        with pytest.raises(TooLate, match="b:1 is being loaded"):
            await bench.ask("b")
        bench.can_load.set()
        assert await bench.ask("b") == "b"
        assert bench.started == ["a:1", "b:1"]

    asyncio.run(run())


def test_a_new_version_of_the_one_model_is_loaded_beside_the_old_one() -> None:
    slots = Slots(1, 0.1, lambda but: None)
    old = slots.hold("a", lambda: cast(Live, FakeLive(model("a"))))
    new = slots.hold("a", lambda: cast(Live, FakeLive(model("a", 2))))
    with pytest.raises(Overloaded, match="no more than 1"):
        slots.hold("b", lambda: cast(Live, FakeLive(model("b"))))
    del old, new
    assert slots.hold("b", lambda: cast(Live, FakeLive(model("b")))).version == 1


def test_one_that_cannot_be_loaded_fails_its_own_callers_and_is_tried_again_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        bench = Bench(model("a"), model("b"), model("c"), broken="c")
        for _ in range(5):
            with pytest.raises(Unavailable, match="c:1 cannot be loaded") as caught:
                await bench.ask("c")
            assert 1 <= caught.value.retry_after_s <= 5
        assert bench.started == ["a:1", "b:1", "c:1"], "not once a request"
        assert await bench.ask("b") == "b"
        clock = time.monotonic()
        monkeypatch.setattr("ftray.serve.models.backoff.time.monotonic", lambda: clock + 6)
        with pytest.raises(Unavailable) as caught:
            await bench.ask("c")
        assert bench.started[3:] == ["c:1"]
        assert 5 < caught.value.retry_after_s <= 10
        bench.broken = ""
        monkeypatch.setattr("ftray.serve.models.backoff.time.monotonic", lambda: clock + 60)
        assert await bench.ask("c") == "c"

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
