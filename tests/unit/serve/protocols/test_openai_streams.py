"""Answers in OpenAI's protocol that come piece by piece, and callers who go away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.http.app import create_api
from ftray.serve.interface import Generation, Overloaded, Piece, Unavailable
from ftray.serve.ops.metrics import Metrics
from ftray.serve.protocols.openai import fanout as openai_choices
from tests.helpers.serving.fake_backend import HELLO, FakeBackends, FakeGenerator
from tests.helpers.serving.openai_client import (
    ASKED,
    CHAT,
    LONG,
    PATHS,
    STREAMED,
    TEXT,
    events,
    serving,
)


def test_a_text_comes_in_chunks(client: TestClient) -> None:
    answer = client.post(TEXT, json=ASKED[TEXT] | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-ftray-model"] == "writer"
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert len({(chunk.pop("id"), chunk.pop("created")) for chunk in chunks}) == 1
    assert chunks == [
        {
            "object": "text_completion",
            "model": "writer",
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}],
        }
        for text, finish in (("Hello", None), (" world", None), ("", "stop"))
    ]


def test_a_chat_comes_in_chunks(client: TestClient) -> None:
    *chunks, done = events(client.post(CHAT, json=ASKED[CHAT] | {"stream": True}).text)
    assert done == "[DONE]"
    assert all(chunk.pop("id").startswith("chatcmpl-") for chunk in chunks)
    assert all(chunk.pop("created") for chunk in chunks)
    deltas: list[tuple[Any, str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hello"}, None),
        ({"content": " world"}, None),
        ({}, "stop"),
    ]
    assert chunks == [
        {
            "object": "chat.completion.chunk",
            "model": "writer",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        for delta, finish in deltas
    ]


@PATHS
def test_a_stream_tells_its_tokens_where_asked(client: TestClient, path: str) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, _ = events(client.post(path, json=ASKED[path] | options).text)
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


def test_no_character_of_a_piece_ends_a_line_of_a_stream() -> None:
    text = "a\n\nb\r\u2028\x85\x1cé🎬"
    with serving(FakeGenerator([Piece(text, 1), Piece("", 2, "length")])) as client:
        streamed = client.post(TEXT, json=ASKED[TEXT] | {"stream": True}).text
    assert events(streamed)[0]["choices"][0]["text"] == text
    assert len(streamed.splitlines()) == 2 * 3


def test_a_piece_may_bring_text_and_the_end() -> None:
    with serving(FakeGenerator([Piece("all", 4, "length")])) as client:
        *chunks, _ = events(client.post(TEXT, json=ASKED[TEXT] | {"stream": True}).text)
    told = [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks]
    assert told == [("all", None), ("", "length")]


@PATHS
def test_what_goes_wrong_in_a_stream_is_told_in_it(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR),
        serving(FakeGenerator([*HELLO[:1], ArithmeticError("boom")])) as client,
    ):
        answer = client.post(path, json=ASKED[path] | {"stream": True})
    *chunks, last = events(answer.text)
    assert answer.status_code == 200 and len(chunks) == {TEXT: 1, CHAT: 2}[path]
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["type"] == "server_error"
    assert "boom" not in answer.text and "boom" in caplog.text


class Slow(FakeGenerator):
    """Takes its time before each piece."""

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        for piece in self.script:
            await asyncio.sleep(0.15)
            if isinstance(piece, Exception):
                raise piece
            assert isinstance(piece, Piece)
            yield piece


@PATHS
def test_a_stream_on_which_nothing_comes_is_kept_alive(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_choices, "SILENCE_S", 0.05)
    with serving(Slow()) as client:
        silent = client.post(path, json=ASKED[path] | {"stream": True}).text
        whole = client.post(path, json=ASKED[path])
    with serving(FakeGenerator()) as client:
        quick = client.post(path, json=ASKED[path] | {"stream": True}).text
    comment = ": keep-alive\n\n"
    assert silent.startswith(comment) and silent.count(comment) >= 3
    assert comment not in quick and whole.status_code == 200
    told = [events(text.replace(comment, "")) for text in (silent, quick)]
    assert [len(chunks) for chunks in told] == [len(told[1])] * 2
    assert [c["choices"] for c in told[0][:-1]] == [c["choices"] for c in told[1][:-1]]


@PATHS
@pytest.mark.parametrize(
    ("error", "code"),
    [(Overloaded("9 wait", 7), "overloaded"), (Unavailable("gone"), "unavailable")],
)
def test_what_is_refused_after_a_silence_is_told_in_the_stream(
    path: str, error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_choices, "SILENCE_S", 0.05)
    with serving(Slow([error])) as client:
        late = client.post(path, json=ASKED[path] | {"stream": True})
    *_, last = events(late.text.replace(": keep-alive\n\n", ""))
    assert late.status_code == 200 and late.headers["x-ftray-model"] == "writer"
    assert last["error"]["code"] == code and str(error) in last["error"]["message"]


class Leaver:
    """A client of the bare application that may go away."""

    def __init__(self, backend: FakeGenerator) -> None:
        self.backend = backend
        self.api = create_api(FakeBackends(backend), Metrics("one"))
        self.gone = asyncio.Event()
        self.statuses: list[int] = []

    async def ask(self, path: str, **changes: Any) -> None:
        bodies = [json.dumps(ASKED[path] | changes).encode()]

        async def receive() -> Any:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])

        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": headers,
        }
        await self.api(scope, receive, send)

    async def until_open(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.backend.open != count:
                await asyncio.sleep(0.001)


@PATHS
@STREAMED
@pytest.mark.parametrize("begun", [True, False])
def test_who_goes_away_ends_the_answers(path: str, stream: bool, begun: bool) -> None:
    async def run() -> None:
        script = [*HELLO[:1], asyncio.Event()] if begun else [asyncio.Event()]
        leaver = Leaver(FakeGenerator(script))
        asking = asyncio.create_task(leaver.ask(path, stream=stream, n=3))
        await leaver.until_open(3)
        if stream and begun:
            while not leaver.statuses:
                await asyncio.sleep(0.001)
        leaver.gone.set()
        await asyncio.wait_for(asking, 10)
        await leaver.until_open(0)
        assert leaver.statuses == [200 if stream and begun else 499]

    asyncio.run(run())


@STREAMED
def test_when_one_answer_fails_the_others_end(stream: bool) -> None:
    class Uneven(FakeGenerator):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            if prompt == "bad":
                await asyncio.sleep(0.01)
                raise LONG
            return await super().generate(prompt, sampling)

    async def run() -> None:
        leaver = Leaver(Uneven([*HELLO[:1], asyncio.Event()]))
        await asyncio.wait_for(leaver.ask(TEXT, prompt=["a", "bad", "b"], stream=stream), 10)
        assert leaver.statuses == [400]
        await leaver.until_open(0)
        assert len(leaver.backend.asked) == 2

    asyncio.run(run())


def test_when_the_service_stops_the_answers_end() -> None:
    async def run() -> None:
        leaver = Leaver(FakeGenerator([asyncio.Event()]))
        asking = asyncio.create_task(leaver.ask(CHAT, n=2))
        await leaver.until_open(2)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await leaver.until_open(0)

    asyncio.run(run())
