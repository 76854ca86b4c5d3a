"""Answers of many requests that share the steps of one model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
import torch

from ftray.models.generator import Generator
from ftray.models.load import load_model
from ftray.models.sampling import Sampling
from ftray.serve.batcher import Overloaded
from ftray.serve.talks import NoNumbers, Talks, Told
from ftray.spec.schema import Batching
from tests.helpers.tiny_generator import MAX_TOKENS, make_generator

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["the film has", "a", "dull and", "wonderful", "plot of"]
T = TypeVar("T")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    found = load_model(make_generator(tmp_path_factory.mktemp("talks") / "model"))
    assert isinstance(found, Generator)
    return found


@pytest.fixture
def told() -> list[Told]:
    return []


@pytest.fixture
def talks(generator: Generator, told: list[Told]) -> Talks:
    return Talks(generator, Batching(max_size=2, max_waiting=4), told.append)


async def written(talks: Talks, prompt: str, most: int = MAX_TOKENS, **options: Any) -> str:
    """The whole answer."""
    ids = talks._generator.prompt_ids(prompt)  # noqa: SLF001
    pieces = talks.pieces(ids, Sampling(max_tokens=most, **options))
    return "".join([piece.text async for piece in pieces])


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(limited())


async def gathered(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


def until_idle(talks: Talks) -> None:
    end = time.monotonic() + 20
    while talks._thread is not None:  # noqa: SLF001
        assert time.monotonic() < end, "it goes on for nobody"
        time.sleep(0.005)


def test_more_than_have_a_place_are_answered_one_after_the_other(
    talks: Talks, generator: Generator, told: list[Told]
) -> None:
    expected = [text for text, _ in generator.outcomes(PROMPTS)]
    assert run(gathered(*(written(talks, prompt) for prompt in PROMPTS))) == expected
    until_idle(talks)
    assert len(told) == len(PROMPTS) and talks.waiting == 0
    prompts = sorted(len(generator.prompt_ids(prompt)) for prompt in PROMPTS)
    assert sorted(each.prompt_tokens for each in told) == prompts
    assert all(0 < each.first_s <= each.seconds for each in told)
    assert all(0 < each.tokens <= MAX_TOKENS for each in told)


def test_pieces_say_how_far_it_is(talks: Talks, generator: Generator) -> None:
    async def all_pieces() -> list[Any]:
        ids = generator.prompt_ids("the film has")
        return [piece async for piece in talks.pieces(ids, Sampling(max_tokens=5))]

    pieces = run(all_pieces())
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish == "length" and pieces[-1].tokens == 5
    counts = [piece.tokens for piece in pieces]
    assert counts == sorted(counts)


def test_a_stop_text_ends_it_and_is_not_told(talks: Talks, told: list[Told]) -> None:
    whole = run(written(talks, "the film has"))
    stop = whole[len(whole) // 2 :][:3]
    assert run(written(talks, "the film has", stop=(stop,))) == whole[: whole.index(stop)]
    until_idle(talks)
    assert told[1].tokens < told[0].tokens


def test_who_goes_away_leaves_room(talks: Talks, told: list[Told]) -> None:
    async def leave() -> str:
        leaving = [talks.pieces([5, 6], Sampling(max_tokens=100)) for _ in range(4)]
        for pieces in leaving:
            task = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await pieces.aclose()
        return await written(talks, "a")

    assert run(leave()) == run(written(talks, "a"))
    until_idle(talks)
    assert talks.waiting == 0


def test_too_many_are_refused_at_once(talks: Talks) -> None:
    async def ask() -> list[Any]:
        # Two have places only once the thread has looked.
        return await gathered(*(written(talks, "a", most=100) for _ in range(12)))

    found = run(ask())
    refused = [answer for answer in found if isinstance(answer, Overloaded)]
    assert refused and len(refused) < 12
    assert all(error.retry_after_s >= 1 for error in refused)
    until_idle(talks)


def test_who_waits_too_long_is_told(generator: Generator, told: list[Told]) -> None:
    batching = Batching(max_size=1, timeout_seconds=0.02)
    talks = Talks(generator, batching, told.append)
    found = run(gathered(*(written(talks, "a", most=100) for _ in range(4))))
    refused = [answer for answer in found if isinstance(answer, Overloaded)]
    assert len(refused) == 3 and "not begun within 0.02 s" in str(refused[0])
    until_idle(talks)
    assert len(told) == 1


def test_what_fails_is_told_to_all_and_forgotten(
    talks: Talks, monkeypatch: pytest.MonkeyPatch, generator: Generator
) -> None:
    expected = run(written(talks, "a"))
    with monkeypatch.context() as broken:
        broken.setattr(generator.model.lm_head, "forward", _fails)
        found = run(gathered(written(talks, "a"), written(talks, "dull and")))
    assert [str(error) for error in found] == ["no memory", "no memory"]
    assert run(written(talks, "a")) == expected


def test_logits_that_are_no_numbers_end_an_answer(
    talks: Talks, monkeypatch: pytest.MonkeyPatch, generator: Generator
) -> None:
    with monkeypatch.context() as broken:
        whole = generator.model.lm_head.forward
        broken.setattr(generator.model.lm_head, "forward", lambda x: whole(x) * torch.nan)
        with pytest.raises(NoNumbers):
            run(written(talks, "a"))
    until_idle(talks)


def test_a_loop_that_is_gone_hinders_nobody(talks: Talks, generator: Generator) -> None:
    async def abandon() -> None:
        pieces = talks.pieces(generator.prompt_ids("a"), Sampling(max_tokens=100))
        await anext(pieces)

    asyncio.run(abandon())
    assert run(written(talks, "dull and")) == generator.outcomes(["dull and"])[0][0]


def _fails(*_: Any) -> Any:
    raise RuntimeError("no memory")
