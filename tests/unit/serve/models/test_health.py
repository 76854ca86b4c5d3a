"""What a replica does while its model is slow, hangs, or answers wrongly."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from ftray.models.generation.sampling_params import Sampling
from ftray.serve.interface import TooLate, Unavailable
from ftray.serve.models.health import Health, Unhealthy
from ftray.serve.models.live import Live
from ftray.serve.models.loaded_predictor import LiveModel
from ftray.serve.models.loader import Loader
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.engine import Engine
from ftray.spec.sections.compute import PLAIN
from ftray.spec.sections.serving import Batching, GenerationLimits
from ftray.store.files.location import Location
from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import make_model

BATCHING = Batching(timeout_seconds=2, hung_seconds=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Location]:
    root = tmp_path_factory.mktemp("health")
    return {"labels": make_model(root / "labels"), "writes": make_generator(root / "writes")}


def load(folder: Location, batching: Batching = BATCHING) -> Live:
    metrics = Metrics("one")
    limits = GenerationLimits(8)
    engine = Engine(batching, metrics)
    return Loader(batching, PLAIN, limits, metrics, engine, None).load(folder, "m", 1)


def labels(live: Live) -> LiveModel:
    assert isinstance(live, LiveModel)
    return live


@contextmanager
def computed(live: Live, how: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """`how` is told to compute in place of each forward pass inside the block."""
    # A graph is called, a module has the pass itself replaced.
    holder, name = (
        (live.loaded, "model") if isinstance(live, LiveModel) else (live.loaded.model, "forward")  # type: ignore[attr-defined]
    )
    whole = getattr(holder, name)
    setattr(holder, name, lambda *args, **inputs: how(partial(whole, *args, **inputs)))
    try:
        yield
    finally:
        setattr(holder, name, whole)


async def ask(live: Live) -> object:
    if isinstance(live, LiveModel):
        return await live.answer(["dull"], None)
    pieces = (await live.generate("the film has", Sampling(max_tokens=2))).pieces
    return [piece async for piece in pieces]


@contextmanager
def stuck(live: Live) -> Iterator[None]:
    """The model's thread returns from no call inside the block."""
    free = threading.Event()

    def waits(compute: Callable[[], Any]) -> Any:
        assert free.wait(30)
        return compute()

    with computed(live, waits):
        try:
            yield
        finally:
            free.set()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["labels", "writes"])
def test_a_request_is_refused_at_its_limit_while_the_model_computes(
    folders: dict[str, Location], kind: str
) -> None:
    async def run() -> None:
        live = load(folders[kind])
        with stuck(live):
            asked = [asyncio.create_task(ask(live)) for _ in range(40)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            with pytest.raises(TooLate, match="within 2 s"):
                await ask(live)
            assert 1.9 < time.monotonic() - began < 20, "the call takes 30 s"
        await asyncio.gather(*asked, return_exceptions=True)
        assert await ask(live), "it goes on once the call returns"

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["labels", "writes"])
def test_a_model_that_hangs_is_noticed_and_asked_no_more(
    folders: dict[str, Location], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftray.serve.models.health._PATIENCE_S", 3.0)

    async def run() -> None:
        live = load(folders[kind])
        health = Health(lambda: [live])
        await health.check()
        with stuck(live):
            asked = asyncio.create_task(ask(live))
            await until(lambda: live.fault)
            with pytest.raises(Unhealthy, match="m:1 does not answer: a call of the model has not"):
                await asyncio.wait_for(health.check(), 20)
            with pytest.raises(Unavailable, match="m:1 does not answer just now"):
                await ask(live)
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: not live.fault)
        await health.check()
        assert await ask(live)

    asyncio.run(run())


def test_a_check_that_hangs_is_noticed_too(
    folders: dict[str, Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftray.serve.models.health._PATIENCE_S", 0.1)

    async def run() -> None:
        live = load(folders["labels"])
        health = Health(lambda: [live])
        with stuck(live):
            await health.check()
            await until(lambda: live.fault)
            for _ in range(3):
                with pytest.raises(Unhealthy):
                    await health.check()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["labels", "writes"])
def test_a_model_that_no_longer_gives_its_golden_answer_gives_no_other_one(
    folders: dict[str, Location], kind: str
) -> None:
    async def run() -> None:
        live = load(folders[kind])
        health = Health(lambda: [live])
        await ask(live)
        await health.check()
        with computed(live, _spoilt):
            with pytest.raises(Unhealthy, match="golden answers of"):
                await health.check()
            with pytest.raises(Unavailable):
                await ask(live)
        await health.check()
        assert await ask(live)

    asyncio.run(run())


def _spoilt(compute: Callable[[], Any]) -> Any:
    outputs = compute()
    outputs.logits = outputs.logits + torch.arange(outputs.logits.shape[-1])
    return outputs


def test_models_are_checked_in_turn_and_one_that_failed_first(
    folders: dict[str, Location],
) -> None:
    async def run() -> None:
        lives = [labels(load(folders["labels"])) for _ in range(3)]
        health, seen = Health(lambda: lives), list[int]()
        for number, live in enumerate(lives):
            _watch(live, seen, number)
        for _ in range(4):
            await health.check()
        assert seen == [0, 1, 2, 0]
        with computed(lives[2], _failing), pytest.raises(ArithmeticError):
            await ask(lives[2])
        await health.check()
        assert seen[4:] == [2]

    asyncio.run(run())


def _failing(compute: Callable[[], Any]) -> Any:
    raise ArithmeticError("boom")


def _watch(live: LiveModel, seen: list[int], number: int) -> None:
    whole = live.loaded.check_golden

    def check(most: int | None = None) -> None:
        seen.append(number)
        whole(most)

    live.loaded.check_golden = check  # type: ignore[method-assign]


def test_a_replica_that_holds_no_model_is_well() -> None:
    asyncio.run(Health(list).check())
