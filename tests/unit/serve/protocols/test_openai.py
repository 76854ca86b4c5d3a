"""OpenAI's protocol on made-up generators in this process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.http.app import create_api
from ftray.serve.http.auth import add_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.interface import Answers, BadPrompt, Generation, Overloaded, Piece, Unavailable
from ftray.serve.ops.metrics import Metrics
from ftray.serve.protocols.openai import fanout as openai_choices
from ftray.serve.schemas import MAX_TEXT
from ftray.store.files.location import locate
from tests.helpers.serving.fake_backend import HELLO, FakeBackend, FakeBackends, FakeGenerator

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
ASKED: dict[str, dict[str, Any]] = {
    TEXT: {"model": "writer", "prompt": "Say"},
    CHAT: {"model": "writer", "messages": [{"role": "user", "content": "Hi"}]},
}
PATHS = pytest.mark.parametrize("path", [TEXT, CHAT])
STREAMED = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture
def writer() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def client(writer: FakeGenerator) -> Iterator[TestClient]:
    with serving(writer) as client:
        yield client


def serving(*backends: FakeBackend) -> TestClient:
    """With a classifier beside them."""
    return TestClient(create_api(FakeBackends(*backends, FakeBackend()), Metrics("one")))


def events(text: str) -> list[Any]:
    """The data of a stream: JSON, and what is none as it is."""
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def wrong(answer: Any, status: int) -> Any:
    """The error, which has OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert 5 < len(error["message"]) < 300
    return error


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


TOOL = {"type": "function", "function": {"name": "f"}}
BOTH_REFUSE: list[tuple[str, dict[str, Any], str]] = [
    ("no model", {"model": None}, "model"),
    ("a model that is no text", {"model": 3}, "model"),
    ("hot", {"temperature": 2.1}, "temperature"),
    ("cold", {"temperature": -0.1}, "temperature"),
    ("temperature in words", {"temperature": "1"}, "temperature"),
    ("temperature without end", {"temperature": 10**400}, "temperature"),
    ("no top_p", {"top_p": 0}, "top_p"),
    ("no answers", {"n": 0}, "n"),
    ("many answers", {"n": 17}, "n"),
    ("true answers", {"n": True}, "n"),
    ("no tokens", {"max_tokens": 0}, "max_tokens"),
    ("half a token", {"max_tokens": 1.5}, "max_tokens"),
    ("tokens without end", {"max_tokens": 10**400}, "max_tokens"),
    ("half a seed", {"seed": 0.5}, "seed"),
    ("five stops", {"stop": ["a"] * 5}, "stop"),
    ("an empty stop", {"stop": ""}, "stop.0"),
    ("a stop that is no text", {"stop": ["a", 1]}, "stop.1"),
    ("a penalty", {"presence_penalty": 2.5}, "presence_penalty"),
    ("another penalty", {"frequency_penalty": -2.5}, "frequency_penalty"),
    ("a stream in words", {"stream": "yes"}, "stream"),
    ("options that are none", {"stream_options": True}, "stream_options"),
    ("an option that is none", {"stream_options": {"usage": True}}, "stream_options.usage"),
    ("a bias", {"logit_bias": {"50256": -100}}, "logit_bias"),
    ("a field of no one", {"top_k": 5}, "top_k"),
    ("a null of no one", {"top_k": None}, "top_k"),
    ("half a character", {"user": "\ud800"}, "user"),
]
TEXT_REFUSES: list[tuple[str, dict[str, Any], str]] = [
    ("no prompt", {"prompt": None}, "prompt.0"),
    ("no prompts", {"prompt": []}, "prompt"),
    ("no token", {"prompt": [[]]}, "prompt.0"),
    ("a number", {"prompt": 5}, "prompt.0"),
    ("an object", {"prompt": {"text": "a"}}, "prompt.0"),
    ("a text among tokens", {"prompt": [1, "a"]}, "prompt.0.1"),
    ("a token among texts", {"prompt": ["a", 1]}, "prompt.1"),
    ("a negative token", {"prompt": [[1], [2, -1]]}, "prompt.1.1"),
    ("half a token", {"prompt": [1.5]}, "prompt.0.0"),
    ("a true token", {"prompt": [True]}, "prompt.0.0"),
    ("a huge token", {"prompt": [10**400]}, "prompt.0.0"),
    ("half a character", {"prompt": "\ud800"}, "prompt.0"),
    ("a long prompt", {"prompt": "a" * (MAX_TEXT + 1)}, "prompt.0"),
    ("many prompts", {"prompt": ["a"] * 129}, "prompt"),
    ("many answers to many", {"prompt": ["a"] * 9, "n": 15}, "prompt"),
    ("an echo", {"echo": True}, "echo"),
    ("the best", {"best_of": 3}, "best_of"),
    ("the true best", {"best_of": True}, "best_of"),
    ("logprobs", {"logprobs": 0}, "logprobs"),
    ("a suffix", {"suffix": "b"}, "suffix"),
    ("a field of chats", {"max_completion_tokens": 3}, "max_completion_tokens"),
]
CHAT_REFUSES: list[tuple[str, dict[str, Any], str]] = [
    ("no messages", {"messages": None}, "messages"),
    ("a text", {"messages": "Hi"}, "messages"),
    ("no message", {"messages": []}, "messages"),
    ("too many", {"messages": [{"role": "user", "content": "a"}] * 513}, "messages"),
    ("a message of text", {"messages": ["Hi"]}, "messages.0"),
    ("no role", {"messages": [{"content": "a"}]}, "messages.0.role"),
    ("no content", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ("tokens", {"max_completion_tokens": 0}, "max_completion_tokens"),
    ("tools", {"tools": [TOOL]}, "tools"),
    ("a choice of tools", {"tool_choice": "required"}, "tool_choice"),
    ("functions", {"functions": [{"name": "f"}]}, "functions"),
    ("a function", {"function_call": {"name": "f"}}, "function_call"),
    ("JSON", {"response_format": {"type": "json_object"}}, "response_format"),
    ("logprobs", {"logprobs": True}, "logprobs"),
    ("many logprobs", {"top_logprobs": 2}, "top_logprobs"),
    ("a voice", {"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ("sound", {"modalities": ["text", "audio"]}, "modalities"),
    ("a store", {"store": True}, "store"),
    ("a search", {"web_search_options": {}}, "web_search_options"),
    ("thought", {"reasoning_effort": "high"}, "reasoning_effort"),
]
for name, message, field in (
    ("a tool's turn", {"role": "tool", "content": "a", "tool_call_id": "1"}, "role"),
    ("an unknown role", {"role": "USER", "content": "a"}, "role"),
    ("a number", {"role": "user", "content": 5}, "content.0.text"),
    ("no parts", {"role": "user", "content": []}, "content"),
    ("a part of text", {"role": "user", "content": ["a"]}, "content.0"),
    (
        "a picture",
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        "content.0.type",
    ),
    ("a call", {"role": "assistant", "content": "a", "tool_calls": [TOOL]}, "tool_calls"),
    ("a field of no one", {"role": "user", "content": "a", "date": 1}, "date"),
):
    CHAT_REFUSES.append((name, {"messages": [message]}, f"messages.0.{field}"))
REFUSED = [
    pytest.param(path, changes, field, id=f"{path.split('/')[2]}: {name}")
    for path, cases in (
        (TEXT, BOTH_REFUSE + TEXT_REFUSES),
        (CHAT, BOTH_REFUSE + CHAT_REFUSES),
    )
    for name, changes, field in cases
]


@pytest.mark.parametrize(("path", "changes", "field"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(
    client: TestClient, writer: FakeGenerator, path: str, changes: dict[str, Any], field: str
) -> None:
    body = json.dumps(ASKED[path] | changes)
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    error = wrong(answer, 400)
    assert (error["param"], field in error["message"]) == (field, True), error
    assert writer.asked == []


def test_a_refusal_says_what_would_do(client: TestClient) -> None:
    def said(path: str, **changes: Any) -> str:
        return wrong(client.post(path, json=ASKED[path] | changes), 400)["message"]

    assert said(TEXT, top_k=1) == "Unrecognized request argument supplied: top_k"
    assert said(CHAT, tools=[TOOL]) == "tools: not supported here; leave it out"
    assert "135 answers; 128" in said(TEXT, prompt=["a"] * 9, n=15)
    assert "'system', 'developer', 'user' or 'assistant'" in said(
        CHAT, messages=[{"role": "tool", "content": "a"}]
    )
    for path, field in ((TEXT, "prompt"), (CHAT, "messages")):
        message = wrong(client.post(path, json=[]), 400)["message"]
        assert "send a JSON object" in message and f'"{field}"' in message


NEUTRAL: dict[str, dict[str, Any]] = {
    TEXT: {"best_of": 1.0, "echo": False, "logprobs": None, "suffix": "", "logit_bias": {}},
    CHAT: {
        "tools": [],
        "functions": [],
        "tool_choice": "auto",
        "function_call": "none",
        "response_format": {"type": "text"},
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "store": False,
        "metadata": {},
        "service_tier": "auto",
        "audio": None,
        "logit_bias": {},
    },
}


@PATHS
def test_an_option_that_asks_for_nothing_is_taken(client: TestClient, path: str) -> None:
    answer = client.post(path, json=ASKED[path] | NEUTRAL[path])
    assert answer.status_code == 200, answer.text


@PATHS
def test_null_means_left_out(client: TestClient, writer: FakeGenerator, path: str) -> None:
    name = {TEXT: "CompletionRequest", CHAT: "ChatRequest"}[path]
    schema = client.get("/openapi.json").json()["components"]["schemas"][name]
    optional = set(schema["properties"]) - set(schema["required"])
    assert {"temperature", "n", "stop", "stream", "stream_options", "max_tokens"} <= optional
    answer = client.post(path, json=ASKED[path] | dict.fromkeys(optional))
    assert answer.status_code == 200, answer.text
    client.post(path, json=ASKED[path])
    assert writer.asked[0] == writer.asked[1]


@PATHS
@STREAMED
def test_an_unknown_model_and_one_that_does_not_generate(
    client: TestClient, path: str, stream: bool
) -> None:
    asked = ASKED[path] | {"stream": stream}
    error = wrong(client.post(path, json=asked | {"model": "x" * 5000}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "writer" in error["message"] and "reviews" not in error["message"]
    error = wrong(client.post(path, json=asked | {"model": "reviews"}), 404)
    assert (error["code"], error["param"]) == ("model_not_supported", "model")
    assert "/v1/models/reviews/predict" in error["message"]


LONG = BadPrompt("prompt", "9 tokens; 8 is all there is room for", "context_length_exceeded")


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


@PATHS
def test_who_has_no_key_is_told_as_openai_does(tmp_path: Path, path: str) -> None:
    file = locate(str(tmp_path / "keys.txt"))
    key = add_key(file, "app")
    api = create_api(FakeBackends(FakeGenerator()), Metrics("one"), Keyring(file))
    with TestClient(api) as client:
        refused = client.post(path, json=ASKED[path])
        assert wrong(refused, 401)["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        headers = {"authorization": f"Bearer {key}"}
        assert client.post(path, json=ASKED[path], headers=headers).status_code == 200


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"{model",
    "not UTF-8": b'{"model": "\xff"}',
    "a number": b"3",
    "null": b"null",
    "a list": b"[]",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
}
HOSTILE_FIELDS: dict[str, bytes] = {
    "NaN": b'"temperature": NaN',
    "NaN as a penalty": b'"presence_penalty": NaN',
    "infinity": b'"top_p": 1e999',
    "a number of 5,000 digits": b'"seed": ' + b"9" * 5000,
    "deep tools": b'"tools": ' + b"[" * 500 + b"]" * 500,
    "a long name": b'"' + b"a" * 100_000 + b'": 1',
    "half a character": b'"\\ud800": 1',
    "a name of Python's": b'"__class__": 1',
    "a name of ours": b'"_plain": 1',
}


@PATHS
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_refused(client: TestClient, path: str, body: bytes) -> None:
    wrong(client.post(path, content=body, headers={"content-type": "application/json"}), 400)


@PATHS
@pytest.mark.parametrize("field", HOSTILE_FIELDS.values(), ids=HOSTILE_FIELDS)
def test_hostile_fields_are_refused(client: TestClient, path: str, field: bytes) -> None:
    body = json.dumps(ASKED[path]).encode().removesuffix(b"}") + b", " + field + b"}"
    wrong(client.post(path, content=body, headers={"content-type": "application/json"}), 400)


@PATHS
def test_other_refusals_have_the_same_shape(client: TestClient, path: str) -> None:
    body = json.dumps(ASKED[path])
    assert "Content-Type" in wrong(client.post(path, content=body), 415)["message"]
    wrong(client.post(path, content=body, headers={"content-type": "text/plain"}), 415)
    wrong(client.post(path, content=b"a" * (4 * 2**20 + 1)), 413)
    assert wrong(client.get(path), 405)


def test_the_document_promises_no_status_that_is_not_sent(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path in (TEXT, CHAT):
        responses = document["paths"][path]["post"]["responses"]
        assert "422" not in responses
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
