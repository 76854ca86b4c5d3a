"""Streams that have begun continue while the service shuts down."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.serving.served import ftray_serve, quiet_port

TOKENS = 700
SHAPE = {"hidden_size": 256, "num_hidden_layers": 8, "max_position_embeddings": 4096}
ASKED = {
    "model": "writer",
    "prompt": "the film has",
    "max_tokens": TOKENS,
    "temperature": 1.5,
    "seed": 1,
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    folder = make_generator(tmp_path / "model", "writer", eos_token_id=None, **SHAPE)
    process = ftray_serve(folder.url, quiet_port(), "--set", f"serve.max_tokens={TOKENS}")
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    yield json.loads(line)["url"], process
    process.terminate()
    process.communicate(timeout=180)


@pytest.mark.slow
def test_a_stream_ends_before_its_service_does(
    service: tuple[str, subprocess.Popen[str]],
) -> None:
    url, process = service
    path = f"{url}/v1/completions"
    whole = httpx.post(path, json=ASKED, timeout=60).json()["choices"][0]["text"]
    chunks: list[str] = []
    with httpx.stream("POST", path, json={**ASKED, "stream": True}, timeout=60) as answer:
        for line in answer.iter_lines():
            chunks += [line.removeprefix("data: ")] if line else []
            if len(chunks) == 20:
                process.send_signal(signal.SIGTERM)
                stopped = time.monotonic()
    assert time.monotonic() - stopped > 1, "it was not over when the signal came"
    assert chunks.pop() == "[DONE]"
    texts = [choice["text"] for chunk in chunks for choice in json.loads(chunk)["choices"]]
    assert "".join(texts) == whole
    assert process.wait(180) == 0


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait_for_it(
    service: tuple[str, subprocess.Popen[str]],
) -> None:
    url, process = service
    with httpx.stream("POST", f"{url}/v1/completions", json={**ASKED, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGINT)
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        with pytest.raises(httpx.HTTPError):
            for _ in lines:
                pass
    assert process.wait(60) == 0
