"""The versions that a replica holds: who answers while they change places, and how trials end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest

from ftray.errors import ModelError
from ftray.models.sampling import Prompt, Sampling
from ftray.serve.backend import Answers, BadPrompt, Generation, Piece
from ftray.serve.judge import Judge
from ftray.serve.live import LiveModel
from ftray.serve.shelf import Shelf
from ftray.store.routes import Route, Stop, Trial
from tests.helpers.fake_backend import INFO


class FakeModel:
    """Answers with its version's number; fails, or says another label, where it is told to."""

    info = INFO

    def __init__(
        self,
        version: int,
        failing: bool = False,
        label: str = "good",
        breaks: bool = False,
        refusing: bool = False,
    ) -> None:
        """breaks: in the middle of what it generates; refusing: every prompt."""
        self.version, self.failing, self.label = version, failing, label
        self.breaks, self.refusing = breaks, refusing
        self.closed = False
        self.open = 0
        """Answers that it generates just now."""
        self.free = asyncio.Event()
        self.free.set()

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        await self.free.wait()
        if self.failing:
            raise ArithmeticError("boom")
        return Answers("m", self.version, ("good",), [{"label": self.label}] * len(texts))

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        if self.refusing:
            raise BadPrompt("prompt", "no chat template", "no_chat")
        return Generation("m", self.version, 1, self._pieces())

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        self.open += 1
        try:
            if self.failing:
                raise ArithmeticError("boom")
            yield Piece("It is ", 1)
            await self.free.wait()
            if self.breaks:
                raise ArithmeticError("boom")
            yield Piece(self.label, 2, "stop")
        finally:
            self.open -= 1

    def apart(self) -> FakeModel:
        return self

    def settled(self) -> FakeModel:
        return self

    def close(self) -> None:
        self.closed = True


def stop(version: int) -> Stop:
    return Stop(version=version, folder=f"models/m/{version}")


class Bench:
    """A shelf that begins with version 1, and what it told others."""

    def __init__(self, *refused: int, **kinds: Any) -> None:
        self.refused, self.kinds = refused, kinds
        self.loaded: list[int] = []
        self.models = {1: FakeModel(1)}
        self.ended: list[tuple[int, str]] = []
        self.shadowed: Counter[bool] = Counter()
        self.shelf = Shelf(
            cast(LiveModel, self.models[1]), self.load, self.end_trial, self.count_shadow
        )

    def load(self, stop: Stop) -> LiveModel:
        self.loaded.append(stop.version)
        if stop.version in self.refused:
            raise ModelError.of("golden answers", "a", "off by 0.3", "export it again")
        self.models[stop.version] = FakeModel(stop.version, **self.kinds)
        return cast(LiveModel, self.models[stop.version])

    def end_trial(self, trial: Trial, why: str) -> None:
        self.ended.append((trial.stop.version, why))

    def count_shadow(self, version: int | None, agrees: bool) -> None:
        assert version == 2
        self.shadowed[agrees] += 1

    async def generated(self, temperature: float = 0.0) -> tuple[int | None, str]:
        """Version and text of a whole answer."""
        generation = await self.shelf.generate("a", Sampling(temperature=temperature))
        text = "".join([piece.text async for piece in generation.pieces])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return generation.version, text

    async def versions(self, count: int = 1) -> Counter[Any]:
        """Who answered so many requests."""
        found = [(await self.shelf.answer(["a"], None)).version for _ in range(count)]
        await asyncio.sleep(0)
        return Counter(found)


def route(version: int, trial: int = 0, share: float = 0.25, shadow: bool = False) -> Route:
    tried = Trial(stop=stop(trial), share=share, shadow=shadow) if trial else None
    return Route(current=stop(version), trial=tried)


def test_a_request_that_has_begun_ends_where_it_began() -> None:
    async def run() -> None:
        bench = Bench()
        bench.models[1].free.clear()
        early = asyncio.create_task(bench.shelf.answer(["a"], None))
        await asyncio.sleep(0)
        bench.shelf.update(route(2))
        assert await bench.versions() == {2: 1}
        assert bench.models[1].closed
        bench.models[1].free.set()
        assert (await early).version == 1
        bench.shelf.update(route(2))
        assert bench.loaded == [2], "what is held is not loaded again"

    asyncio.run(run())


def test_a_version_that_is_refused_changes_nothing_until_another_is_promoted() -> None:
    async def run() -> None:
        bench = Bench(2)
        for _ in range(3):
            bench.shelf.update(route(2))
            assert await bench.versions() == {1: 1}
        assert bench.loaded == [2] and not bench.models[1].closed
        bench.shelf.update(route(3))
        assert await bench.versions() == {3: 1}
        bench.refused = ()
        bench.shelf.update(route(2))
        assert await bench.versions() == {2: 1}, "promoted again, it is looked at again"

    asyncio.run(run())


def test_a_trial_gets_its_share_and_takes_over_without_being_loaded_again() -> None:
    async def run() -> None:
        bench = Bench()
        bench.shelf.update(route(1, trial=2))
        found = await bench.versions(2000)
        assert found.total() == 2000 and 400 < found[2] < 600
        bench.shelf.update(route(2))
        assert await bench.versions(50) == {2: 50}
        assert bench.loaded == [2] and bench.models[1].closed and not bench.models[2].closed

    asyncio.run(run())


def test_a_trial_is_dropped_with_its_route() -> None:
    async def run() -> None:
        bench = Bench()
        bench.shelf.update(route(1, trial=2, share=1.0))
        assert await bench.versions(10) == {2: 10}
        bench.shelf.update(route(1))
        assert await bench.versions(10) == {1: 10}
        assert bench.models[2].closed and not bench.ended

    asyncio.run(run())


@pytest.mark.parametrize(("label", "agrees"), [("good", True), ("bad", False)])
def test_nobody_gets_an_answer_from_the_shadow(label: str, agrees: bool) -> None:
    async def run() -> None:
        bench = Bench(label=label)
        bench.shelf.update(route(1, trial=2, share=1.0, shadow=True))
        assert await bench.versions(20) == {1: 20}
        assert bench.shadowed == {agrees: 20}

    asyncio.run(run())


def test_a_trial_that_fails_is_ended_for_all() -> None:
    async def run() -> None:
        bench = Bench(failing=True)
        tried = route(1, trial=2, share=0.5)
        bench.shelf.update(tried)
        assert await bench.versions(40) == {1: 40}, "who it fails is answered by the current one"
        bench.shelf.update(tried)
        assert bench.ended == [(2, "100% of its requests failed")]
        for _ in range(3):  # until the route is written anew, and where it cannot be
            bench.shelf.update(tried)
            assert await bench.versions(20) == {1: 20}
        assert bench.loaded == [2]

    asyncio.run(run())


def test_what_fails_in_the_shadow_fails_nobody_and_ends_the_trial() -> None:
    async def run() -> None:
        bench = Bench(failing=True)
        bench.shelf.update(route(1, trial=2, share=1.0, shadow=True))
        assert await bench.versions(20) == {1: 20}
        bench.shelf.update(route(1, trial=2, share=1.0, shadow=True))
        assert bench.ended == [(2, "100% of its requests failed")]

    asyncio.run(run())


def test_a_trial_that_does_not_prove_itself_gets_no_request() -> None:
    async def run() -> None:
        bench = Bench(2)
        bench.shelf.update(route(1, trial=2, share=1.0))
        assert await bench.versions(10) == {1: 10}
        ((version, why),) = bench.ended
        assert version == 2 and "off by 0.3" in why

    asyncio.run(run())


def test_a_judge_needs_enough_to_compare() -> None:
    judge = Judge()
    for _ in range(60):
        judge.answered(False, 0.03)
    for _ in range(40):
        judge.answered(True, 0.5)
    assert not judge.verdict()
    for _ in range(20):
        judge.answered(True, 0.5)
    assert "500 ms" in judge.verdict() and "30 ms" in judge.verdict()


def test_a_judge_lets_pass_what_is_nearly_as_good() -> None:
    judge = Judge()
    for number in range(200):
        judge.answered(False, 0.03)
        judge.answered(True, 0.05)
        if number % 40 == 0:
            judge.failed(True)
    assert not judge.verdict()
    for _ in range(20):
        judge.failed(True)
    assert judge.verdict() == "11% of its requests failed"


def test_a_trial_that_loads_while_the_shelf_closes_is_closed_too() -> None:
    bench = Bench()
    bench.shelf.close()
    bench.shelf.update(route(1, trial=2, share=1.0))
    assert bench.models[2].closed


def test_what_is_being_written_ends_where_it_began() -> None:
    async def run() -> None:
        bench = Bench()
        bench.models[1].free.clear()
        generation = await bench.shelf.generate("a", Sampling())
        assert (await anext(generation.pieces)).text == "It is "
        bench.shelf.update(route(2))
        assert await bench.generated() == (2, "It is good")
        bench.models[1].free.set()
        assert [piece.text async for piece in generation.pieces] == ["good"]

    asyncio.run(run())


def test_a_trial_writes_its_share() -> None:
    async def run() -> None:
        bench = Bench(label="bad")
        bench.shelf.update(route(1, trial=2, share=0.5))
        found = Counter([await bench.generated() for _ in range(400)])
        assert set(found) == {(1, "It is good"), (2, "It is bad")}
        assert 130 < found[2, "It is bad"] < 270

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["failing", "refusing"])
def test_who_a_trial_cannot_write_for_is_answered_by_the_current_version(fault: str) -> None:
    async def run() -> None:
        bench = Bench(**{fault: True})
        tried = route(1, trial=2, share=1.0)
        bench.shelf.update(tried)
        assert {await bench.generated() for _ in range(20)} == {(1, "It is good")}
        bench.shelf.update(tried)
        failed = fault == "failing"
        assert bench.ended == ([(2, "100% of its requests failed")] if failed else [])

    asyncio.run(run())


def test_a_trial_that_breaks_off_is_ended() -> None:
    async def run() -> None:
        bench = Bench(breaks=True)
        tried = route(1, trial=2, share=1.0)
        bench.shelf.update(tried)
        for _ in range(3):
            with pytest.raises(ArithmeticError):
                await bench.generated()
        bench.shelf.update(tried)
        assert [version for version, _ in bench.ended] == [2]
        assert await bench.generated() == (1, "It is good")

    asyncio.run(run())


@pytest.mark.parametrize(("label", "agrees"), [("good", True), ("bad", False)])
def test_the_shadow_writes_the_same_and_is_compared(label: str, agrees: bool) -> None:
    async def run() -> None:
        bench = Bench(label=label)
        bench.shelf.update(route(1, trial=2, share=1.0, shadow=True))
        for _ in range(5):
            assert await bench.generated() == (1, "It is good")
        for _ in range(5):
            await bench.generated(temperature=1.0)
        while bench.models[2].open or bench.shelf._shadows:  # noqa: SLF001
            await asyncio.sleep(0)
        assert bench.shadowed == {agrees: 5}, "what is drawn by chance need not be the same"

    asyncio.run(run())


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("share", [0.0001, 1.0])
def test_who_goes_away_ends_it_in_the_version_that_writes(share: float, shadow: bool) -> None:
    async def run() -> None:
        bench = Bench()
        bench.shelf.update(route(1, trial=2, share=share, shadow=shadow))
        for model in bench.models.values():
            model.free.clear()
        generation = await bench.shelf.generate("a", Sampling())
        await anext(generation.pieces)
        assert sum(model.open for model in bench.models.values()) == 1
        await generation.pieces.aclose()
        assert sum(model.open for model in bench.models.values()) == 0

    asyncio.run(run())
