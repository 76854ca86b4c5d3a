"""Malformed and abusive requests: each gets a 4xx with one message, and others are served.

The tests run against `ftray serve` as users run it, its proxy included.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ftray.models.inference.predictor import Predictor
from ftray.store.files.location import locate
from tests.helpers.serving.hostile import Hostile, http, requests
from tests.helpers.serving.served import served
from tests.helpers.serving.upgrades import TEXTS, Callers

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def url(model_folder: Path) -> Iterator[str]:
    with served(model_folder) as (url, _):
        yield url


@pytest.fixture(scope="module")
def callers(url: str, model_folder: Path) -> Iterator[Callers]:
    """Four callers that send valid requests all the time."""
    predictor = Predictor(locate(str(model_folder)))
    rows = predictor.answers(TEXTS, 9)
    expected = [{item["label"]: item["score"] for item in row} for row in rows]
    callers = Callers(url, {None: expected}, pause_s=0.1)
    with callers.asking(4):
        yield callers
    assert not callers.wrong, callers.wrong[:3]


def connect(url: str) -> socket.socket:
    found = urlsplit(url)
    assert found.hostname and found.port
    return socket.create_connection((found.hostname, found.port), PATIENCE_S)


def send(url: str, content: bytes) -> tuple[int, str]:
    """Status and body of the answer; 0 if the connection was closed without an answer."""
    with connect(url) as wire:
        with suppress(BrokenPipeError, ConnectionResetError):
            # A server that is sent 100 MB may close the connection once it has answered.
            wire.sendall(content)
        answer = b""
        with suppress(ConnectionResetError, TimeoutError):
            while not _is_whole(answer) and (part := wire.recv(65536)):
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return status, body.decode(errors="replace")


def _is_whole(answer: bytes) -> bool:
    """Whether the answer is whole by its Content-Length.

    A proxy may wait for the rest of a request before it closes the connection.
    """
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])


def test_each_hostile_request_gets_one_clear_message(url: str, callers: Callers) -> None:
    found = requests()
    assert len(found) >= 100
    wrong = []
    for hostile in found:
        began, before = time.monotonic(), len(callers.seen)
        status, body = send(url, hostile.content)
        seconds = time.monotonic() - began
        if fault := _fault(hostile, status, body):
            wrong.append(f"{hostile.name}: {status}, {fault}: {body[:120]!r}")
        elif seconds > 1 and len(callers.seen) == before:
            wrong.append(f"{hostile.name}: nobody else was answered for {seconds:.1f} s")
    assert not wrong, "\n".join(wrong)
    assert not callers.wrong, callers.wrong[:3]


def _fault(hostile: Hostile, status: int, body: str) -> str:
    if status not in hostile.statuses:
        return f"not one of {sorted(hostile.statuses)[:3]}"
    if body.startswith("{"):
        error = json.loads(body)["error"]
        message = error if isinstance(error, str) else error["message"]
        return "" if 3 < len(message) < 500 and "Traceback" not in message else "no clear message"
    # Bytes that are not HTTP never reach ftray: the proxy refuses them.
    return "" if status in (0, 400, 408, 413, 431) and len(body) < 500 else "no message"


def test_slow_senders_hold_nobody_up(url: str, callers: Callers) -> None:
    whole = http(b'{"inputs": "a"}')
    slow = [connect(url) for _ in range(200)]
    try:
        for place, wire in enumerate(slow):
            wire.sendall(whole[: 10 + place % (len(whole) - 11)])
        time.sleep(1)
        before = len(callers.seen)
        answer = httpx.post(f"{url}/v1/predict", json={"inputs": "a wonderful film"}, timeout=30)
        assert answer.status_code == 200
        time.sleep(1)
        assert len(callers.seen) > before + 10
    finally:
        for wire in slow:
            wire.close()
    assert not callers.wrong, callers.wrong[:3]


def test_who_hangs_up_costs_nobody_an_answer(url: str, callers: Callers) -> None:
    body = json.dumps({"inputs": ["a long review " * 50] * 64}).encode()
    before, seen = computed(url), len(callers.seen)
    for _ in range(50):
        with connect(url) as wire:
            wire.sendall(http(body))
    for _ in range(30):  # the service refuses more requests until it notices the closed connections
        answer = httpx.post(f"{url}/v1/predict", json={"inputs": "a wonderful film"}, timeout=60)
        if answer.status_code == 200:
            break
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        time.sleep(0.2)
    assert answer.status_code == 200
    rows = computed(url) - before - (len(callers.seen) - seen)
    assert rows < 1600, f"{rows} of 3,200 rows were computed, and nobody waits for one"
    assert all(fault.startswith("503") for fault in callers.wrong), callers.wrong[:3]
    callers.wrong.clear()


def computed(url: str) -> float:
    """Number of rows that the model has computed."""
    page = httpx.get(f"{url}/metrics", timeout=60).text
    found = [s for f in text_string_to_metric_families(page) for s in f.samples]
    return sum(s.value for s in found if s.name == "ftray_batch_rows_sum")
