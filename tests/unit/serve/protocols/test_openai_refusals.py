"""Requests in OpenAI's protocol that are refused, and options that ask for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftray.serve.http.app import create_api
from ftray.serve.http.auth import add_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.ops.metrics import Metrics
from ftray.serve.schemas import MAX_TEXT
from ftray.store.files.location import locate
from tests.helpers.serving.fake_backend import FakeBackends, FakeGenerator
from tests.helpers.serving.openai_client import (
    ASKED,
    CHAT,
    PATHS,
    STREAMED,
    TEXT,
    wrong,
)

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
