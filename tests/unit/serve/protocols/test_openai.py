"""Whole answers in OpenAI's protocol, by made-up generators in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import Answers, BadPrompt, Generation, Overloaded, Piece, Unavailable
from tests.helpers.serving.fake_backend import FakeBackend, FakeGenerator
from tests.helpers.serving.openai_client import (
    ASKED,
    CHAT,
    LONG,
    PATHS,
    STREAMED,
    TEXT,
    events,
    serving,
    wrong,
)


def test_a_text_is_gone_on_with(client: TestClient, writer: FakeGenerator) -> None:
    answer = client.post(TEXT, json=ASKED[TEXT])
    told = answer.json()
    assert told.pop("id").startswith("cmpl-")
    assert isinstance(told.pop("created"), int)
    choice = {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert told == {
        "object": "text_completion",
        "model": "writer",
        "choices": [choice],
        "usage": usage,
    }
    assert (answer.headers["x-ftray-model"], answer.headers["x-ftray-version"]) == ("writer", "3")
    assert writer.asked == [("Say", Sampling(max_tokens=16, temperature=1.0))]


def test_a_chat_is_answered(client: TestClient, writer: FakeGenerator) -> None:
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": "Yes?", "refusal": None, "tool_calls": []},
    ]
    told = client.post(CHAT, json={"model": "writer", "messages": messages}).json()
    assert told.pop("id").startswith("chatcmpl-")
    assert isinstance(told.pop("created"), int)
    message = {"role": "assistant", "content": "Hello world", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert told == {
        "object": "chat.completion",
        "model": "writer",
        "choices": [choice],
        "usage": usage,
    }
    turns = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Yes?"},
    )
    assert writer.asked == [(turns, Sampling(temperature=1.0))]


@PATHS
def test_what_is_asked_of_the_drawing_arrives(
    client: TestClient, writer: FakeGenerator, path: str
) -> None:
    options = {
        "max_tokens": 7.0,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 5,
        "stop": ["a", "b"],
        "presence_penalty": -2,
        "frequency_penalty": 1.5,
        "user": "ann",
    }
    assert client.post(path, json=ASKED[path] | options).status_code == 200
    assert client.post(path, json=ASKED[path] | {"stop": "a", "seed": -1}).status_code == 200
    assert writer.asked[0][1] == Sampling(7, 0.0, 0.5, 5, ("a", "b"), -2.0, 1.5)
    assert writer.asked[1][1].stop == ("a",)
    assert writer.asked[1][1].seed == 2**63 - 1


def test_a_chat_says_in_two_ways_how_long_its_answer_may_be(
    client: TestClient, writer: FakeGenerator
) -> None:
    for options in ({"max_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": 9}):
        client.post(CHAT, json=ASKED[CHAT] | options)
    assert [sampling.max_tokens for _, sampling in writer.asked] == [3, 3]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", ""], ["a", ""]),
        ([5, 6.0], [(5, 6)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
        (["a"] * 128, ["a"] * 128),
    ],
)
def test_a_prompt_has_many_forms(
    client: TestClient, writer: FakeGenerator, prompt: Any, prompts: list[Prompt]
) -> None:
    told = client.post(TEXT, json={"model": "writer", "prompt": prompt}).json()
    assert [asked for asked, _ in writer.asked] == prompts
    assert [choice["index"] for choice in told["choices"]] == list(range(len(prompts)))


class Echo(FakeGenerator):
    """Says what it was asked, the first prompt last."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        return Generation(self.name, self.version, 10, self._echo(prompt, sampling))

    async def _echo(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Piece, None]:
        if prompt == "a":
            await asyncio.sleep(0.05)
        yield Piece(f"{prompt}", 1)
        yield Piece(f"{sampling.seed}", 2, "length")


@STREAMED
def test_each_choice_has_its_place_and_its_seed(stream: bool) -> None:
    asked = {"model": "writer", "prompt": ["a", "b"], "n": 2, "seed": 7, "stream": stream}
    with serving(Echo()) as client:
        answer = client.post(TEXT, json={**asked, "stream_options": {"include_usage": True}})
    chunks = events(answer.text)[:-1] if stream else [answer.json()]
    if not stream:
        assert [choice["index"] for choice in chunks[0]["choices"]] == [0, 1, 2, 3]
    texts, finished = [""] * 4, [None] * 4
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] += choice["text"]
        finished[choice["index"]] = choice["finish_reason"]
    assert texts == ["a7", "a8", "b7", "b8"]
    assert finished == ["length"] * 4
    usage = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
    assert chunks[-1]["usage"] == usage


def test_choices_are_drawn_at_the_same_time() -> None:
    class Together(FakeGenerator):
        """Nobody begins before all have come."""

        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            self.all = getattr(self, "all", None) or asyncio.Barrier(4)
            await asyncio.wait_for(self.all.wait(), 10)
            return await super().generate(prompt, sampling)

    with serving(Together()) as client:
        answer = client.post(TEXT, json={"model": "writer", "prompt": ["a", "b"], "n": 2})
    assert len(answer.json()["choices"]) == 4


@PATHS
@STREAMED
@pytest.mark.parametrize("at_once", [True, False])
def test_what_goes_wrong_before_the_first_piece_has_a_status(
    path: str, stream: bool, at_once: bool
) -> None:
    def refusal(error: Exception) -> Any:
        backend = FakeGenerator(refusal=error) if at_once else FakeGenerator([error])
        with serving(backend) as client:
            return client.post(path, json=ASKED[path] | {"stream": stream, "n": 2})

    busy = refusal(Overloaded("9 answers are waiting already", 7))
    assert wrong(busy, 503)["code"] == "overloaded"
    assert busy.headers["retry-after"] == "7"
    assert "writer" in wrong(refusal(Unavailable("writer could not be loaded")), 503)["message"]
    error = wrong(refusal(LONG), 400)
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == "9 tokens; 8 is all there is room for"
    assert error["param"] == {TEXT: "prompt", CHAT: "messages"}[path]
    tokens = refusal(BadPrompt("max_tokens", "9 are too many", "context_length_exceeded"))
    assert wrong(tokens, 400)["param"] == "max_tokens"


def test_a_prompt_that_cannot_be_answered_is_told_in_each_protocol() -> None:
    class Picky(FakeBackend):
        async def answer(self, texts: Any, top_k: int | None) -> Answers:
            raise LONG

    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    with serving(Picky("picky")) as client:
        own = client.post("/v1/models/picky/predict", json={"inputs": "a"})
        inference = client.post("/v2/models/picky/infer", json={"inputs": [tensor]})
    assert (own.status_code, own.json()["error"]["field"]) == (422, "inputs")
    assert (inference.status_code, inference.json()["error"]) == (400, str(LONG))
