"""Rows of a large request take turns with those of others, and a costly one is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ftray.models.inference.predictor import Predictor
from ftray.serve.interface import BadPrompt
from ftray.serve.models.loaded_predictor import LiveModel
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.batcher import Batcher, Limits
from ftray.serve.runners.engine import Engine
from ftray.serve.runners.turns import Waiting, next_rows
from ftray.serve.schemas import MAX_READ
from ftray.spec.sections.serving import Batching
from ftray.tasks.text.blank import is_blank
from tests.helpers.models.tiny_model import make_model


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(make_model(tmp_path_factory.mktemp("turns") / "model"))


def waiting(*requests: tuple[str, float, Sequence[int]]) -> list[Waiting]:
    return [Waiting(name, since, size) for name, since, sizes in requests for size in sizes]


def chosen(rows: Sequence[Waiting], most: int) -> list[tuple[Any, int]]:
    return [(rows[place].request, rows[place].size) for place in next_rows(rows, most)]


def test_small_requests_are_whole_in_the_next_call_beside_a_large_one() -> None:
    rows = waiting(("large", 0, range(100)), ("a", 1, [500]), ("b", 2, [900, 50]))
    found = chosen(rows, 8)
    assert {("a", 500), ("b", 900), ("b", 50), ("large", 0)} <= set(found)
    assert sorted(size for request, size in found if request == "large") == [0, 1, 2, 3, 4]


def test_of_more_requests_than_there_is_room_for_those_that_wait_longest_have_their_turn() -> None:
    rows = waiting(("large", 9, [7] * 50), *((str(n), n, [100 * n]) for n in range(20)))
    assert chosen(rows, 4) == [("0", 0), ("1", 100), ("2", 200), ("3", 300)]
    rows = waiting(("large", -1, [7] * 50), *((str(n), n, [100 * n]) for n in range(20)))
    assert chosen(rows, 4) == [("large", 7), ("0", 0), ("1", 100), ("2", 200)]


def test_a_request_alone_has_rows_of_like_size_together() -> None:
    assert chosen(waiting(("one", 0, [5, 900, 6, 901, 4])), 3) == [
        ("one", 5),
        ("one", 6),
        ("one", 4),
    ]


def test_others_wait_for_one_call_of_a_large_request() -> None:
    calls: list[list[str]] = []

    def run(rows: list[str]) -> list[str]:
        calls.append(rows)
        time.sleep(0.005)
        return rows

    async def ask() -> None:
        batcher = Batcher(run, Limits(8, 0))
        large = asyncio.create_task(batcher.submit(["large"] * 400))
        for number in range(5):
            await asyncio.sleep(0.012)
            began = len(calls)
            await batcher.submit([str(number)])
            own = next(n for n, rows in enumerate(calls) if str(number) in rows)
            assert own - began <= 1, "after the one that runs"
        assert not large.done()
        await large

    asyncio.run(ask())


def test_one_large_request_does_not_hold_the_models_thread(predictor: Predictor) -> None:
    """A body of 4 MB: 41 texts of which the model keeps 64 tokens each."""
    held: list[float] = []

    async def ask() -> None:
        engine = Engine(Batching(), Metrics("one"))
        forward = engine._batcher._run  # noqa: SLF001

        def timed(rows: list[Any]) -> Any:
            began = time.thread_time()
            result = forward(rows)
            held.append(time.thread_time() - began)
            return result

        engine._batcher._run = timed  # noqa: SLF001
        live = LiveModel("tiny", 1, predictor, Metrics("one"), engine)
        short = ["dull and long " * 25] * 41
        found, long = [
            torch.stack([outputs["logits"] for ((_, outputs),) in await engine.run(live, texts)])
            for texts in (short, [text * 280 for text in short])
        ]
        assert torch.allclose(long, found, atol=1e-5)

    asyncio.run(ask())
    short, long = sum(held[: len(held) // 2]), sum(held[len(held) // 2 :])
    assert long < 2 * short, "what is not read costs nothing"


def test_what_has_to_be_read_whole_is_limited(predictor: Predictor) -> None:
    async def ask() -> None:
        engine = Engine(Batching(), Metrics("one"))
        live = LiveModel("tiny", 1, predictor, Metrics("one"), engine)
        assert await live.answer(["x" * 100_000], None)
        with pytest.raises(BadPrompt, match=f"{MAX_READ:,} characters"):
            await live.answer(["x" * 100_000] * 12, None)
        assert await live.answer(["many words " * 9000] * 41, None)

    asyncio.run(ask())


def test_a_text_of_blanks_is_told_from_one_with_a_word_at_its_end_in_no_time() -> None:
    blanks = "\u200b \u00ad\u2800" * 25_000
    began = time.thread_time()
    assert is_blank(blanks) and not is_blank(f"{blanks}a")
    assert time.thread_time() - began < 0.05
