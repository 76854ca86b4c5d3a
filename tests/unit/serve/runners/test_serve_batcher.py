"""The batcher: who shares a call, how large it gets, and what a failure or a departure costs."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from ftray.models.inference.passes import PassCost
from ftray.serve.interface import Overloaded
from ftray.serve.runners.batcher import Batcher, Limits


class Model:
    """Answers a text with itself in capitals, and remembers its calls."""

    def __init__(self, room: float = math.inf) -> None:
        """room: characters that it can compute at once."""
        self.room = room
        self.calls: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, texts: list[str]) -> Sequence[str]:
        self.calls.append(texts)
        assert self.free.wait(60)
        if "boom" in texts:
            raise ArithmeticError("boom")
        if sum(map(len, texts)) > self.room:
            raise MemoryError
        return [text.upper() for text in texts]

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


@pytest.mark.parametrize("seed", range(5))
def test_every_caller_gets_its_own_answers_in_order(seed: int) -> None:
    rng, model = random.Random(seed), Model()
    requests = [[f"r{i}-{j}" for j in range(rng.randint(1, 20))] for i in range(50)]

    async def run() -> list[list[str]]:
        batcher = Batcher(model, Limits(8, 0.002))

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
        batcher = Batcher(model, Limits(4, 0.05))
        await asyncio.gather(batcher.submit(["a", "b", "c", "d", "e", "f"]), batcher.submit(["g"]))

    asyncio.run(run())
    assert model.calls == [["a", "b", "c", "g"], ["d", "e", "f"]]


def test_a_full_batch_does_not_wait() -> None:
    async def run() -> float:
        batcher = Batcher(Model(), Limits(2, 30))
        start = asyncio.get_running_loop().time()
        await asyncio.gather(batcher.submit(["a"]), batcher.submit(["b"]))
        return asyncio.get_running_loop().time() - start

    assert asyncio.run(run()) < 5


def test_who_comes_alone_does_not_wait_and_who_was_among_many_waits_for_them() -> None:
    model = Model()

    async def run() -> tuple[float, float]:
        batcher = Batcher(model, Limits(8, 1.0))
        clock = asyncio.get_running_loop().time
        start = clock()
        await batcher.submit(["a"])
        await batcher.submit(["b"])
        alone = clock() - start
        await asyncio.gather(*(batcher.submit([name]) for name in "cdef"))
        first = asyncio.create_task(batcher.submit(["g"]))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, *(batcher.submit([name]) for name in "hij"))
        for _ in range(20):  # the others have gone
            await batcher.submit(["k"])
        start = clock()
        await batcher.submit(["l"])
        return alone, clock() - start

    alone, again = asyncio.run(run())
    assert alone < 0.8 and again < 0.8
    assert model.sizes[:4] == [1, 1, 4, 4]


def test_rows_of_other_lengths_share_a_call_only_where_one_more_costs_more() -> None:
    model, short, long = Model(), ["a", "b", "c"], ["d" * 58, "e" * 60]

    async def run(tokens: float) -> list[list[str]]:
        model.calls.clear()
        batcher = Batcher(model, Limits(8, 0.05), len, lambda items: PassCost(1.0, tokens))
        asked = [asyncio.create_task(batcher.submit([text])) for text in [*short, *long]]
        first, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert len(first) == (3 if tokens == 10 else 5), "short ones do not wait for long ones"
        await asyncio.gather(*asked)
        return list(model.calls)

    assert asyncio.run(run(10)) == [short, long]
    assert asyncio.run(run(1000)) == [[*short, *long]]


def test_nobody_waits_longer_for_others_than_a_call_costs() -> None:
    async def run() -> float:
        batcher = Batcher(Model(), Limits(8, 30), len, lambda items: PassCost(0.01, 10))
        await asyncio.gather(*(batcher.submit([name]) for name in "abcd"))
        start = asyncio.get_running_loop().time()
        await batcher.submit(["one of four that were here"])
        return asyncio.get_running_loop().time() - start

    assert asyncio.run(run()) < 10


def test_rows_that_arrive_during_a_call_go_together_in_the_next() -> None:
    model = Model()

    async def run() -> None:
        batcher = Batcher(model, Limits(8, 0))
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


def together(model: Model, size: int, requests: list[list[str]]) -> list[Any]:
    """What requests that arrive at once get, and one that comes later."""

    async def run() -> list[Any]:
        batcher = Batcher(model, Limits(size, 0.05))
        asked = [batcher.submit(texts) for texts in requests]
        results = await asyncio.gather(*asked, return_exceptions=True)
        return [*results, await batcher.submit(["later"])]

    return asyncio.run(run())


def test_only_requests_that_fail_alone_fail() -> None:
    model = Model()
    requests = [["a"], ["b"], ["c"], ["boom", "d"], ["e"], ["f"], ["g"]]
    *answers, later = together(model, 8, requests)
    assert [answer for answer in answers if isinstance(answer, ArithmeticError)] == [answers[3]]
    assert answers[:3] + answers[4:] == [["A"], ["B"], ["C"], ["E"], ["F"], ["G"]]
    assert later == ["LATER"]
    alone = [call for call in model.calls if "boom" in call]
    assert len(alone) <= 4, "it is asked for with fewer rows each time, and once alone"


def test_a_model_that_always_fails_is_called_a_bounded_number_of_times() -> None:
    model = Model()
    *answers, _ = together(model, 8, [["boom"]] * 16)
    assert all(isinstance(answer, ArithmeticError) for answer in answers)
    assert sum("boom" in call for call in model.calls) <= 2 * (2 * 8 - 1)


def test_what_finds_no_memory_is_computed_by_halves_and_only_what_is_too_large_fails() -> None:
    model = Model(room=8)
    large, huge, small, _ = together(model, 8, [["aaaa", "bbbb", "cccc"], ["x" * 9], ["d"]])
    assert large == ["AAAA", "BBBB", "CCCC"]
    assert isinstance(huge, MemoryError)
    assert small == ["D"]
    assert len(model.calls) < 12


def test_the_waiting_rows_of_a_caller_who_left_are_not_computed() -> None:
    model = Model()

    async def run() -> None:
        batcher = Batcher(model, Limits(2, 0))
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


def busy_with(
    model: Model, limits: Limits, size: Any = lambda item: 0, cost: PassCost | None = None
) -> Any:
    """A batcher whose model computes one row until it is set free."""

    async def start() -> tuple[Batcher[str, str], asyncio.Task[list[str]]]:
        batcher: Batcher[str, str] = Batcher(model, limits, size, lambda items: cost or PassCost())
        model.free.clear()
        first = asyncio.create_task(batcher.submit(["first"]))
        while not model.calls:
            await asyncio.sleep(0.001)
        return batcher, first

    return start()


@pytest.mark.parametrize("seed", range(10))
def test_rows_of_like_length_go_together_and_nobody_is_passed_over(seed: int) -> None:
    model, rng = Model(), random.Random(seed)
    texts = ["x" * length for length in rng.sample(range(1, 400), 60)]

    async def run() -> None:
        batcher, first = await busy_with(model, Limits(20, 0), len, PassCost(0, 100))
        others = [asyncio.create_task(batcher.submit([text])) for text in texts]
        await asyncio.sleep(0.01)
        model.free.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    answered = [text for call in model.calls[1:] for text in call]
    batches = [texts[at : at + 20] for at in range(0, 60, 20)]
    for number, batch in enumerate(batches):
        assert sorted(answered[number * 20 : number * 20 + 20]) == sorted(batch), "by arrival"
    padding = [sum(max(map(len, call)) - len(t) for t in call) for call in model.calls[1:]]
    without = [sum(max(map(len, batch)) - len(t) for t in batch) for batch in batches]
    assert sum(padding) < 0.3 * sum(without)


def test_what_is_too_much_is_refused_at_once_and_told_when_to_come_back() -> None:
    model = Model()

    async def run() -> Overloaded:
        batcher, first = await busy_with(model, Limits(2, 0, max_waiting=3))
        waiting = asyncio.create_task(batcher.submit(["a", "b", "c"]))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as caught:
            await batcher.submit(["d"])
        model.free.set()
        assert await waiting == ["A", "B", "C"]
        assert await first == ["FIRST"]
        assert await batcher.submit(["e"]) == ["E"]
        return caught.value

    error = asyncio.run(run())
    assert "3 rows" in str(error)
    assert error.retry_after_s >= 1


def test_who_leaves_makes_room_at_once() -> None:
    model = Model()

    async def run() -> None:
        batcher, first = await busy_with(model, Limits(2, 0, max_waiting=3))
        gone = asyncio.create_task(batcher.submit(["a", "b", "c"]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        stays = asyncio.create_task(batcher.submit(["d"]))
        await asyncio.sleep(0.01)
        assert batcher.waiting == 1
        model.free.set()
        assert await stays == ["D"]
        assert await first == ["FIRST"]

    asyncio.run(run())
