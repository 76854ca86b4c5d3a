"""A service with fake models, on a port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from ftray.serve.http.app import create_api
from ftray.serve.http.keyring import Keyring
from ftray.serve.interface import Answers
from ftray.serve.ops.metrics import Metrics
from ftray.tasks.base import Question
from tests.helpers.serving.fake_backend import INFO, FakeBackend, FakeBackends
from tests.helpers.serving.served import free_port


class FakeTask(FakeBackend):
    """A model of any task that gives the same output for every question.

    asked: every question, with the number of answers that were asked for.
    """

    def __init__(
        self,
        task: str,
        output: Any,
        columns: Mapping[str, str] | None = None,
        examples: Sequence[Any] = (),
        **info: Any,
    ) -> None:
        super().__init__(task)
        self.output = output
        self.asked: list[tuple[Question, int | None]] = []
        changes = {
            "task": task,
            "labels": (),
            "spec": {"data": {"columns": dict(columns or {})}},
            "golden": [{"input": each, "numbers": []} for each in examples],
            **info,
        }
        self.info = INFO.model_validate({**INFO.model_dump(), **changes})

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        self.asked += [(question, top_k) for question in questions]
        return Answers(self.name, self.version, (), [self.output for _ in questions], [])


class Prefixed:
    """A proxy that cuts a prefix off the paths, and serves nothing outside of it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app, self.prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            within = scope["path"].startswith(self.prefix + "/")
            path = scope["path"].removeprefix(self.prefix) if within else "/outside"
            scope = {**scope, "path": path}
        await self.app(scope, receive, send)


@contextmanager
def serving(*models: FakeBackend, keys: Keyring | None = None, prefix: str = "") -> Iterator[str]:
    """The URL of an endpoint that serves fake models in this process."""
    api: ASGIApp = create_api(FakeBackends(*models), Metrics("one"), keys)
    port = free_port()
    app = Prefixed(api, prefix) if prefix else api
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}{prefix}/"
    finally:
        server.should_exit = True
        thread.join()
