"""The batcher: who shares a call, how large it gets, and what a failure or a departure costs."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence

import pytest

from ftray.serve.batcher import Batcher


class Model:
    """Answers a text with itself in capitals, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, texts: list[str]) -> Sequence[str]:
        self.calls.append(texts)
        assert self.free.wait(5)
        if "boom" in texts:
            raise ArithmeticError("boom")
        return [text.upper() for text in texts]

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


@pytest.mark.parametrize("seed", range(5))
def test_every_caller_gets_its_own_answers_in_order(seed: int) -> None:
    rng, model = random.Random(seed), Model()
    requests = [[f"r{i}-{j}" for j in range(rng.randint(1, 20))] for i in range(50)]

    async def run() -> list[list[str]]:
        batcher = Batcher(model, max_rows=8, wait_s=0.002)

        async def late(texts: list[str]) -> list[str]:
            await asyncio.sleep(rng.random() / 50)
            return await batcher.submit(texts)

        return await asyncio.gather(*map(late, requests))

    assert asyncio.run(run()) == [[text.upper() for text in texts] for texts in requests]
    assert max(model.sizes) <= 8
    assert sum(model.sizes) == sum(map(len, requests))


def test_rows_of_several_requests_share_a_call_and_a_long_request_is_cut() -> None:
    model = Model()

    async def run() -> None:
        batcher = Batcher(model, max_rows=4, wait_s=0.05)
        await asyncio.gather(batcher.submit(["a", "b", "c", "d", "e", "f"]), batcher.submit(["g"]))

    asyncio.run(run())
    assert model.calls == [["a", "b", "c", "d"], ["e", "f", "g"]]


def test_a_full_batch_does_not_wait() -> None:
    async def run() -> float:
        batcher = Batcher(Model(), max_rows=2, wait_s=30)
        start = asyncio.get_running_loop().time()
        await asyncio.gather(batcher.submit(["a"]), batcher.submit(["b"]))
        return asyncio.get_running_loop().time() - start

    assert asyncio.run(run()) < 5


def test_rows_that_arrive_during_a_call_go_together_in_the_next() -> None:
    model = Model()

    async def run() -> None:
        batcher = Batcher(model, max_rows=8, wait_s=0)
        model.free.clear()
        first = asyncio.create_task(batcher.submit(["a"]))
        while not model.calls:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.submit([name])) for name in "bcd"]
        await asyncio.sleep(0.01)
        model.free.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert model.calls == [["a"], ["b", "c", "d"]]


def test_a_failure_reaches_those_who_shared_the_call_and_nobody_else() -> None:
    async def run() -> list:
        batcher = Batcher(Model(), max_rows=2, wait_s=0.05)
        together = [batcher.submit(texts) for texts in (["a", "b"], ["c"], ["boom", "d", "e"])]
        results = await asyncio.gather(*together, return_exceptions=True)
        return [*results, await batcher.submit(["f"])]

    first, second, third, later = asyncio.run(run())
    assert first == ["A", "B"]
    assert isinstance(second, ArithmeticError)
    assert isinstance(third, ArithmeticError)
    assert later == ["F"]


def test_the_waiting_rows_of_a_caller_who_left_are_not_computed() -> None:
    model = Model()

    async def run() -> None:
        batcher = Batcher(model, max_rows=2, wait_s=0)
        model.free.clear()
        busy = asyncio.create_task(batcher.submit(["a", "b"]))
        while not model.calls:
            await asyncio.sleep(0.001)
        gone = asyncio.create_task(batcher.submit(["gone"] * 5))
        stays = asyncio.create_task(batcher.submit(["c"]))
        await asyncio.sleep(0)
        gone.cancel()
        model.free.set()
        await asyncio.gather(busy, stays)

    asyncio.run(run())
    assert model.calls == [["a", "b"], ["c"]]
