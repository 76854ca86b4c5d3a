"""Requests in OpenAI's protocol to made-up generators in this process, and readers of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftray.serve.http.app import create_api
from ftray.serve.interface import BadPrompt
from ftray.serve.ops.metrics import Metrics
from tests.helpers.serving.fake_backend import FakeBackend, FakeBackends

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
ASKED: dict[str, dict[str, Any]] = {
    TEXT: {"model": "writer", "prompt": "Say"},
    CHAT: {"model": "writer", "messages": [{"role": "user", "content": "Hi"}]},
}
PATHS = pytest.mark.parametrize("path", [TEXT, CHAT])
STREAMED = pytest.mark.parametrize("stream", [False, True])
LONG = BadPrompt("prompt", "9 tokens; 8 is all there is room for", "context_length_exceeded")


def serving(*backends: FakeBackend) -> TestClient:
    """A client of a service with these generators and a classifier."""
    return TestClient(create_api(FakeBackends(*backends, FakeBackend()), Metrics("one")))


def events(text: str) -> list[Any]:
    """The data of a stream: JSON as values, other text as it is."""
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def wrong(answer: Any, status: int) -> Any:
    """The error in an answer, which must have OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert 5 < len(error["message"]) < 300
    return error
