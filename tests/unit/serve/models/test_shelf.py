"""The versions that a replica holds: who answers while they change places, and how trials end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ftray.models.generation.sampling_params import Sampling
from ftray.serve.http.app import create_api
from ftray.serve.interface import Answers
from ftray.serve.models.version_router import CALLER
from ftray.serve.ops.metrics import Metrics
from ftray.store.deployments.route_file import change_route
from ftray.store.deployments.routes import AliasDeployment, Trial
from tests.helpers.serving.fake_backend import FakeBackend, FakeBackends
from tests.helpers.serving.fake_versions import FakeReplica, stop


class Bench(FakeReplica):
    """A replica that begins with version 1."""

    def __init__(self, storage: Path, *refused: int, **kinds: Any) -> None:
        super().__init__(str(storage), refuses=refused, kinds={2: kinds} if kinds else {})

    def follow(
        self, version: int, trial: int = 0, share: float = 0.25, shadow: bool = False
    ) -> None:
        """What was promoted, and what is tried beside it."""
        tried = Trial(stop=stop(trial), share=share, shadow=shadow, id="t") if trial else None

        def changed(now: AliasDeployment | None) -> AliasDeployment:
            route = now or AliasDeployment(current=stop(1))
            route = route if route.current == stop(version) else route.to(stop(version))
            return route.model_copy(update={"trial": tried})

        change_route(self.alias.root, "m", "live", changed)
        self.poll()

    @property
    def ended(self) -> str:
        return self.alias.route().ended


def test_a_request_that_has_begun_ends_where_it_began(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.models[1].free.clear()
        early = asyncio.create_task(bench.shelf.answer(["a"], None))
        await asyncio.sleep(0)
        bench.follow(2)
        assert await bench.versions() == {2: 1}
        assert bench.models[1].closed
        bench.models[1].free.set()
        assert (await early).version == 1
        bench.poll()
        assert bench.loaded == [1, 2], "what is held is not loaded again"

    asyncio.run(run())


def test_a_version_that_is_refused_never_answers_until_it_is_promoted_again(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, 2)
        bench.follow(2)
        for _ in range(3):
            assert await bench.versions() == {1: 1}
            bench.poll()
        assert bench.loaded == [1, 2] and not bench.models[1].closed
        bench.follow(3)
        assert await bench.versions() == {3: 1}
        bench.refuses.clear()
        bench.follow(2)
        assert await bench.versions() == {2: 1}, "promoted again, it is looked at again"

    asyncio.run(run())


def test_a_trial_gets_its_share_and_takes_over_without_being_loaded_again(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.follow(1, trial=2)
        found = await bench.versions(2000)
        assert found.total() == 2000 and 400 < found[2] < 600
        bench.follow(2)
        assert await bench.versions(50) == {2: 50}
        assert bench.loaded == [1, 2] and bench.models[1].closed and not bench.models[2].closed

    asyncio.run(run())


def test_a_trial_is_dropped_with_its_route(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.follow(1, trial=2, share=1.0)
        assert await bench.versions(10) == {2: 10}
        bench.follow(1)
        assert await bench.versions(10) == {1: 10}
        assert bench.models[2].closed and not bench.ended

    asyncio.run(run())


@pytest.mark.parametrize(("label", "agrees"), [("good", True), ("bad", False)])
def test_nobody_gets_an_answer_from_the_shadow(label: str, agrees: bool, tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, label=label)
        bench.follow(1, trial=2, share=1.0, shadow=True)
        assert await bench.versions(20) == {1: 20}
        assert bench.shadowed == {agrees: 20}

    asyncio.run(run())


def test_a_trial_that_fails_is_ended_for_all(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, failing=True)
        bench.follow(1, trial=2, share=0.5)
        assert await bench.versions(100) == {1: 100}, "the current one answers whom it fails"
        bench.poll()
        assert bench.ended.startswith("the trial of version 2 ended: ")
        assert "requests failed, 0 of 100 of the current version" in bench.ended
        bench.poll()
        assert await bench.versions(20) == {1: 20}
        assert bench.loaded == [1, 2] and bench.models[2].closed

    asyncio.run(run())


def test_what_fails_in_the_shadow_fails_nobody_and_ends_the_trial(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, failing=True)
        bench.follow(1, trial=2, share=1.0, shadow=True)
        assert await bench.versions(30) == {1: 30}
        bench.poll()
        assert "30 of its 30 requests failed" in bench.ended

    asyncio.run(run())


def test_a_trial_that_does_not_prove_itself_gets_no_request(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, 2)
        bench.follow(1, trial=2, share=1.0)
        assert await bench.versions(10) == {1: 10}
        assert "version 2 ended" in bench.ended and "off by 0.3" in bench.ended

    asyncio.run(run())


def test_a_trial_that_loads_while_the_shelf_closes_is_closed_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.shelf.close()
    bench.follow(1, trial=2, share=1.0)
    assert bench.models[2].closed


def test_a_caller_is_answered_by_the_same_version_while_a_trial_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        bench, other = Bench(tmp_path), FakeReplica(str(tmp_path), "r2")
        bench.follow(1, trial=2, share=0.3)
        other.poll()
        seen: Counter[Any] = Counter()
        for number in range(300):
            CALLER.set(f"user-{number}")
            answered = await bench.versions(3) + await other.versions(3)
            assert len(answered) == 1, "at both replicas"
            seen.update(answered.keys())
        assert 55 < seen[2] < 130

    asyncio.run(run())


def test_a_caller_is_known_by_a_header(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.follow(1, trial=2, share=0.5)

    class Served(FakeBackend):
        async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
            return await bench.shelf.answer(texts, top_k)

    client = TestClient(create_api(FakeBackends(Served("m")), Metrics("r")))

    def asked(path: str, caller: str, **body: Any) -> str:
        answer = client.post(path, headers={"X-Ftray-Caller": caller}, **body)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-ftray-version"]

    seen: set[str] = set()
    for caller in ("anna", "bert", "carl", "dora", "emil", "fred", "gina", "hans"):
        body = {"inputs": ["a"]}
        answered = {asked("/v1/predict", caller, json=body) for _ in range(8)}
        assert len(answered) == 1
        seen |= answered
    assert seen == {"1", "2"}


def test_what_is_being_written_ends_where_it_began(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.models[1].free.clear()
        generation = await bench.shelf.generate("a", Sampling())
        assert (await anext(generation.pieces)).text == "It is "
        bench.follow(2)
        assert await bench.generated() == (2, "It is good")
        bench.models[1].free.set()
        assert [piece.text async for piece in generation.pieces] == ["good"]

    asyncio.run(run())


def test_a_trial_writes_its_share(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, label="bad")
        bench.follow(1, trial=2, share=0.5)
        found = Counter([await bench.generated() for _ in range(400)])
        assert set(found) == {(1, "It is good"), (2, "It is bad")}
        assert 130 < found[2, "It is bad"] < 270

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["failing", "refusing"])
def test_who_a_trial_cannot_write_for_is_answered_by_the_current_version(
    fault: str, tmp_path: Path
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, **{fault: True})
        bench.follow(1, trial=2, share=1.0)
        assert {await bench.generated() for _ in range(30)} == {(1, "It is good")}
        bench.poll()
        assert ("30 of its 30 requests failed" in bench.ended) == (fault == "failing")

    asyncio.run(run())


def test_a_trial_that_breaks_off_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, breaks=True)
        bench.follow(1, trial=2, share=1.0)
        for _ in range(40):
            with pytest.raises(ArithmeticError):
                await bench.generated()
        bench.poll()
        assert "version 2 ended" in bench.ended
        assert await bench.generated() == (1, "It is good")

    asyncio.run(run())


@pytest.mark.parametrize(("label", "agrees"), [("good", True), ("bad", False)])
def test_the_shadow_writes_the_same_and_is_compared(
    label: str, agrees: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, label=label)
        bench.follow(1, trial=2, share=1.0, shadow=True)
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
def test_who_goes_away_ends_it_in_the_version_that_writes(
    share: float, shadow: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.follow(1, trial=2, share=share, shadow=shadow)
        for model in bench.models.values():
            model.free.clear()
        generation = await bench.shelf.generate("a", Sampling())
        await anext(generation.pieces)
        assert sum(model.open for model in bench.models.values()) == 1
        await generation.pieces.aclose()
        assert sum(model.open for model in bench.models.values()) == 0

    asyncio.run(run())
