"""Answers of many requests that share the steps of one model."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from ftray.models.generation import decoder
from ftray.models.generation.detokenizer import TextStream
from ftray.models.generation.generator import Generator
from ftray.models.generation.sampling_params import Sampling
from ftray.models.load import load_model
from ftray.serve.interface import BadPrompt, Overloaded, Piece
from ftray.serve.models.loaded_generator import LiveGenerator
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.generation_limits import Capacity
from ftray.serve.runners.generation_scheduler import NoNumbers, Talks, Usage
from ftray.spec.sections.serving import Batching
from tests.helpers.models.tiny_generator import MAX_TOKENS, make_generator

PROMPTS = ["the film has", "a", "dull and", "wonderful", "plot of"]
PLENTY = 10_000
ROOM = Capacity(max_tokens=8, context=128, cache_tokens=PLENTY)
T = TypeVar("T")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    found = load_model(make_generator(tmp_path_factory.mktemp("talks") / "model"))
    assert isinstance(found, Generator)
    return found


@pytest.fixture
def told() -> list[Usage]:
    return []


@pytest.fixture
def talks(generator: Generator, told: list[Usage]) -> Talks:
    return Talks(generator, Batching(max_size=2, max_waiting=5), PLENTY, told.append)


async def written(talks: Talks, prompt: str, most: int = MAX_TOKENS, **options: Any) -> str:
    """The whole answer."""
    ids = talks._generator.prompt_ids(prompt)  # noqa: SLF001
    pieces = talks.pieces(ids, Sampling(max_tokens=most, **options))
    return await joined(pieces)


def predicted(generator: Generator, prompts: Sequence[str]) -> list[str]:
    """The whole answers, without a thread."""
    return [found.columns["prediction"] for found in generator.outcomes(prompts) if found]


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(limited())


async def gathered(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


def until_idle(talks: Talks) -> None:
    end = time.monotonic() + 90
    while talks._thread is not None:  # noqa: SLF001
        assert time.monotonic() < end, "it goes on for nobody"
        time.sleep(0.005)


def test_more_than_have_a_place_are_answered_one_after_the_other(
    talks: Talks, generator: Generator, told: list[Usage]
) -> None:
    expected = predicted(generator, PROMPTS)
    assert run(gathered(*(written(talks, prompt) for prompt in PROMPTS))) == expected
    until_idle(talks)
    assert len(told) == len(PROMPTS) and talks.waiting == 0
    prompts = sorted(len(generator.prompt_ids(prompt)) for prompt in PROMPTS)
    assert sorted(each.prompt_tokens for each in told) == prompts
    assert all(each.first_s > 0 for each in told)
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


def test_a_stop_text_ends_it_and_is_not_told(talks: Talks, told: list[Usage]) -> None:
    whole = run(written(talks, "the film has"))
    stop = whole[len(whole) // 2 :][:3]
    assert run(written(talks, "the film has", stop=(stop,))) == whole[: whole.index(stop)]
    until_idle(talks)
    assert told[1].tokens < told[0].tokens


def test_who_goes_away_leaves_room(talks: Talks, told: list[Usage]) -> None:
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


def test_who_waits_too_long_is_told(generator: Generator, told: list[Usage]) -> None:
    batching = Batching(max_size=1, timeout_seconds=0.5)
    talks = Talks(generator, batching, PLENTY, told.append)
    with _slowed(generator, 0.02):
        found = run(gathered(*(written(talks, "a", most=100) for _ in range(4))))
    refused = [answer for answer in found if isinstance(answer, Overloaded)]
    assert len(refused) == 3 and "not begun within 0.5 s" in str(refused[0])
    until_idle(talks)
    assert len(told) == 1


def test_who_waits_too_long_is_told_though_no_place_is_free(generator: Generator) -> None:
    talks = Talks(generator, Batching(max_size=1, timeout_seconds=0.5), PLENTY, lambda told: None)

    async def ask() -> tuple[float, bool]:
        first = asyncio.ensure_future(written(talks, "a", most=110))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(Overloaded):
            await written(talks, "dull and")
        waited, goes_on = time.monotonic() - began, not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return waited, goes_on

    with _slowed(generator, 0.03):
        waited, goes_on = run(ask())
    assert waited >= 0.5 and goes_on
    until_idle(talks)


def test_who_has_gone_takes_nobody_s_place_among_those_that_wait(generator: Generator) -> None:
    talks = Talks(generator, Batching(max_size=1, max_waiting=2), PLENTY, lambda told: None)

    async def ask() -> str:
        first = asyncio.ensure_future(written(talks, "a", most=110))
        await asyncio.sleep(0.05)
        gone = [asyncio.ensure_future(written(talks, "a")) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await written(talks, "a")
        for each in gone:
            each.cancel()
        await asyncio.sleep(0.1)
        last = asyncio.ensure_future(written(talks, "dull and", most=3))
        first.cancel()
        await asyncio.gather(first, *gone, return_exceptions=True)
        return await last

    with _slowed(generator, 0.01):
        assert run(ask())
    until_idle(talks)


def test_who_has_no_room_for_its_tokens_waits(generator: Generator, told: list[Usage]) -> None:
    """Prompts of 1 and answers of 39 tokens: two have room, though there are places for eight."""
    talks = Talks(generator, Batching(max_size=8), 80, told.append)
    most = 0

    def forward(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        nonlocal most
        most = max(most, len(inputs["input_ids"]))

    async def ask() -> list[str]:
        answers = [talks.pieces([token], Sampling(max_tokens=39)) for token in range(5, 10)]
        return await asyncio.gather(*map(joined, answers))

    watched = generator.model.register_forward_pre_hook(forward, with_kwargs=True)
    try:
        texts = run(ask())
    finally:
        watched.remove()
    until_idle(talks)
    assert most == 2 and len(told) == 5
    talks = Talks(generator, Batching(max_size=8), PLENTY, told.append)
    assert run(ask()) == texts


async def joined(pieces: AsyncGenerator[Piece, None]) -> str:
    return "".join([piece.text async for piece in pieces])


def test_long_prompts_are_not_all_read_at_once(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "CHUNK", 25)
    seen: list[int] = []
    whole = generator.model.forward

    def forward(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 1:
            seen.append(inputs["input_ids"].numel())
        return whole(**inputs)

    talks = Talks(generator, Batching(max_size=8), PLENTY, lambda told: None)
    prompts = ["the film has an actor who", "the film has", "a film", "dull"] * 2
    with monkeypatch.context() as watched:
        watched.setattr(generator.model, "forward", forward)
        texts = run(gathered(*(written(talks, prompt) for prompt in prompts)))
    assert texts == predicted(generator, prompts)
    assert len(seen) > 1 and max(seen) <= 25


def test_a_fault_beside_the_model_hangs_nobody(
    talks: Talks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> str:
        raise ValueError("no text")

    with monkeypatch.context() as broken:
        broken.setattr(TextStream, "feed", breaks)
        with pytest.raises(ValueError, match="no text"):
            run(written(talks, "a"))
    assert run(written(talks, "a"))


def test_a_generator_that_nobody_holds_is_gone_at_once() -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(make_generator(Path(folder) / "model"))
    assert isinstance(loaded, Generator)
    live = LiveGenerator("m", 1, loaded, Metrics("one"), Batching(), ROOM)
    weights = weakref.ref(loaded.model.lm_head.weight)
    gc.collect()
    gc.disable()
    try:
        del live, loaded
        assert weights() is None
    finally:
        gc.enable()


def test_many_texts_of_one_request_wait_for_one_another(generator: Generator) -> None:
    batching = Batching(max_size=2, timeout_seconds=0.5, max_waiting=3)
    live = LiveGenerator("m", 1, generator, Metrics("one"), batching, ROOM)
    prompts = PROMPTS * 3
    with _slowed(generator, 0.03):
        answers = run(live.answer(prompts, None))
    alone = {prompt: run(live.answer([prompt], None)).best[0] for prompt in PROMPTS}
    assert answers.best == [alone[prompt] for prompt in prompts]


def test_a_text_that_cannot_be_answered_says_so_for_all(generator: Generator) -> None:
    live = LiveGenerator("m", 1, generator, Metrics("one"), Batching(), ROOM)
    with pytest.raises(BadPrompt, match="context has room for 128"):
        run(live.answer(["a", "naïve " * 200, "dull"], None))
    with pytest.raises(BadPrompt, match="no labels"):
        run(live.answer(["a"], 3))
    chat = [{"role": "user", "content": "a " * 50_000}] * 11
    with pytest.raises(BadPrompt, match="1,000,000 characters"):
        run(live.generate(chat, Sampling()))
    until_idle(live.talks)


@contextmanager
def _slowed(generator: Generator, seconds: float) -> Iterator[None]:
    """Each step takes so much longer."""
    handle = generator.model.register_forward_hook(lambda *_: time.sleep(seconds))
    try:
        yield
    finally:
        handle.remove()


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
    assert [run(written(talks, "dull and"))] == predicted(generator, ["dull and"])


def _fails(*_: Any) -> Any:
    raise RuntimeError("no memory")
