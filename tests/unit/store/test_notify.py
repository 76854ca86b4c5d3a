"""The message that is posted when a run ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.store.root import Root
from ftray.store.runs import notify as module
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.notify import check_notify, notify
from ftray.train.record.record import recorded
from tests.helpers.external.mlflow_server import free_port
from tests.helpers.training.played import spec as played

RUN = "20260101-000000-aaaaaa"


class Receiver(HTTPServer):
    """Answers with the statuses in `answers`, then 200, and keeps what was posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.got: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook/token"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(json.loads(body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(module, "_PAUSES_S", (0.01, 0.01))


def with_notify(url: str) -> Spec:
    tree = played().model_dump(mode="json", exclude_unset=True) | {"tune": None, "notify": url}
    spec = parse(tree | {"storage": "s3://bucket/root"})
    return spec.model_copy(update={"storage": "s3://KEY:SECRET@bucket/root"})


def test_the_end_of_a_run_is_told_without_paths_and_secrets(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK", receiver.url)
    root, spec = Root(locate(str(tmp_path))), with_notify("$WEBHOOK")
    check_notify(spec)
    run = RunFolder.create(root, spec, RUN)
    with recorded(root, spec, run) as record:
        record.made("m:3", root.models("m") / RUN, {"test": {spec.train.metric: 0.75}})
        run.set_status(state="done")
    (told,) = receiver.got
    assert told["text"] == f"{spec.name} {RUN} is done: test {spec.train.metric} 0.7500"
    assert (told["state"], told["model"], told["version"]) == ("done", "m", 3)
    assert not any(word in json.dumps(told) for word in ("SECRET", "token", str(tmp_path)))


def test_a_run_that_fails_tells_why(receiver: Receiver, tmp_path: Path) -> None:
    root, spec = Root(locate(str(tmp_path))), with_notify(receiver.url)
    run = RunFolder.create(root, spec, RUN)
    with pytest.raises(ValueError), recorded(root, spec, run):
        raise ValueError("it diverged")
    (told,) = receiver.got
    assert told["text"] == f"{spec.name} {RUN} failed: it diverged"
    assert told["state"] == "failed"


def test_a_message_is_sent_again_until_it_is_taken(receiver: Receiver) -> None:
    receiver.answers = [503, 500]
    notify(receiver.url, {"text": "done"})
    assert len(receiver.got) == 3


def test_an_address_that_does_not_answer_costs_a_line(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [503] * 9
    notify(receiver.url, {"text": "done"})
    notify(f"http://127.0.0.1:{free_port()}/hook/token", {"text": "done"})
    assert len(receiver.got) == 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("127.0.0.1 was not told" in line and "token" not in line for line in said)


@pytest.mark.parametrize("asked", ["slack", "ftp://host/x", "https://", "$", "$NO DASH"])
def test_what_is_no_address_is_refused(asked: str) -> None:
    with pytest.raises(SpecError, match=r"notify.*\$NAME"):
        with_notify(asked)


def test_a_variable_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "no url"):
        monkeypatch.setenv("WEBHOOK", value)
        with pytest.raises(SpecError, match="Set WEBHOOK to a URL"):
            check_notify(with_notify("$WEBHOOK"))
