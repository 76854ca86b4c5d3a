"""Each kind of task by the commands: init, validate, train, a killed run, tune, evaluate, predict,
serve by every protocol, promote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from ftray.tasks import task_info
from tests.helpers.external.processes import kill_with_children
from tests.helpers.serving.served import served
from tests.helpers.task_kinds import KINDS
from tests.helpers.task_kinds.kind import Kind, close_to
from tests.helpers.training.small_runs import losses, weights

pytestmark = pytest.mark.slow


def ftray(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    """Runs a command with --json and returns what it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", "ftray", *map(str, arguments), "--json"],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kind")


@pytest.fixture(scope="module")
def spec(kind: Kind, folder: Path) -> Path:
    file = folder / "spec.yaml"
    train = {"epochs": 8, "checkpoint": {"every_steps": 2}}
    file.write_text(yaml.safe_dump(kind.tree(folder, scale={"workers": 2}, train=train)))
    return file


@pytest.fixture(scope="module")
def trained(spec: Path, folder: Path) -> dict[str, Any]:
    return ftray("train", spec, cwd=folder)


def test_init_writes_a_spec_of_the_task(kind: Kind, tmp_path: Path) -> None:
    ftray_init = [sys.executable, "-m", "ftray", "init", kind.task]
    subprocess.run(ftray_init, cwd=tmp_path, check=True, capture_output=True)
    assert yaml.safe_load((tmp_path / "ftray.yaml").read_text())["task"] == kind.task


def test_validate_estimates_the_run(spec: Path, folder: Path) -> None:
    told = ftray("validate", spec, cwd=folder)
    assert told["ok"] and told["estimate"]["steps"] > 0


def test_a_killed_run_ends_with_the_same_weights(
    kind: Kind, spec: Path, folder: Path, trained: dict[str, Any]
) -> None:
    storage = folder / "killed"
    command = [sys.executable, "-m", "ftray", "train", str(spec), "--set", f"storage={storage}"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 300
    while not any(len(losses(run.parent)) > 5 for run in storage.glob("runs/*/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    kill_with_children(process)
    again = ftray("train", spec, "--set", f"storage={storage}", cwd=folder)
    whole, resumed = (weights(result["model_dir"]) for result in (trained, again))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_sweep_tries_depths(spec: Path, folder: Path, trained: dict[str, Any]) -> None:
    tune = {
        "trials": 4,
        "space": {"train.unfreeze": {"choice": [0, 1, 2, "all"]},
                  "train.learning_rate": {"loguniform": [1e-3, 1e-2]}},
    }  # fmt: skip
    tree = yaml.safe_load(spec.read_text())
    tree.update(tune=tune, name="swept", scale={"workers": 1})
    tree["train"]["epochs"] = 2
    (folder / "tune.yaml").write_text(yaml.safe_dump(tree))
    told = ftray("tune", folder / "tune.yaml", cwd=folder)
    assert len(told["trials"]) == 4 and told["model"] == "swept"


def test_evaluate_and_predict(
    kind: Kind, folder: Path, spec: Path, trained: dict[str, Any]
) -> None:
    storage = f"--storage={folder / 'storage'}"
    told = ftray("evaluate", "tiny", storage, cwd=folder)
    for name, value in told["metrics"].items():
        if isinstance(value, float):
            assert trained["metrics"]["test"][name] == pytest.approx(value, abs=1e-5)
    source, out = yaml.safe_load(spec.read_text())["data"]["train"], folder / "out.jsonl"
    ftray("predict", "tiny", storage, f"--data={source}", f"--out={out}", cwd=folder)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    columns = {*task_info(kind.task).outcome}
    assert len(rows) == 60 and all(columns <= row.keys() for row in rows)


@pytest.fixture(scope="module")
def url(folder: Path, trained: dict[str, Any]) -> Iterator[str]:
    with served("tiny", f"--storage={folder / 'storage'}") as (url, _):
        yield url


def answer(url: str, ask: Any) -> Any:
    (output,) = httpx.post(f"{url}/v1/predict", json={"inputs": ask}).json()["outputs"]
    return output


def test_a_stream_of_lines_is_answered(kind: Kind, url: str) -> None:
    ask, alone = kind.ask(), answer(url, kind.ask())
    lines = f"{json.dumps({'inputs': ask})}\n{json.dumps(ask)}\n"
    headers = {"content-type": "application/x-ndjson"}
    stream = httpx.post(f"{url}/v1/predict/stream", content=lines, headers=headers)
    for line in stream.text.splitlines():
        assert json.loads(line)["output"] == close_to(alone, 1e-5)


def test_the_open_inference_protocol_gives_the_same_answer(kind: Kind, url: str) -> None:
    card, ask, alone = httpx.get(f"{url}/v1/model").json(), kind.ask(), answer(url, kind.ask())
    assert card["chat"] or card["examples"], "chats are no texts to try"
    values = ask if isinstance(ask, dict) else {next(iter(card["inputs"])): ask}
    assert card["inputs"].keys() == values.keys()
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [_element(value)]}
        for name, value in values.items()
    ]
    inferred = httpx.post(f"{url}/v2/models/tiny/infer", json={"inputs": tensors}).json()
    found = {
        t["name"]: t["data"] if t["shape"] != [1] else t["data"][0] for t in inferred["outputs"]
    }
    described = httpx.get(f"{url}/v2/models/tiny").json()
    shapes = {each["name"]: each["shape"][1:] for each in described["outputs"]}
    assert shapes == {t["name"]: t["shape"][1:] for t in inferred["outputs"]}
    if isinstance(alone, dict):
        shared = alone.keys() & found.keys()
        assert shared
        assert {n: found[n] for n in shared} == close_to({n: alone[n] for n in shared}, 1e-5)
    elif "labels" in found:
        assert json.loads(found["labels"]) == [each["label"] for each in alone]
    else:
        (value,) = found.values()
        assert (json.loads(value) if isinstance(value, str) else value) == close_to(alone, 1e-5)


def _element(value: Any) -> Any:
    """A value as an element of a tensor, which holds lists as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def test_the_page_and_the_document_are_of_the_task(kind: Kind, url: str) -> None:
    ask = kind.ask()
    if "image" in httpx.get(f"{url}/v1/model").json()["inputs"].values():
        files = {"image": ("one.png", b64decode(ask), "image/png")}
        told = httpx.post(f"{url}/v1/predict", files=files).json()["outputs"]
        assert told == [close_to(answer(url, ask), 1e-5)]
    assert "<html" in httpx.get(url).text
    document = httpx.get(f"{url}/openapi.json").json()
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert "application/json" in body


def test_the_protocol_of_openai_is_that_of_the_task(kind: Kind, url: str) -> None:
    ask, output = kind.ask(), task_info(kind.task).output
    turns = [{"role": "user", "content": str(ask)}]
    writes, embeds = output == "text", output == "embedding"
    asked = {
        "completions": ({"prompt": str(ask), "temperature": 0}, writes),
        "chat/completions": ({"messages": turns, "temperature": 0}, writes),
        "embeddings": ({"input": str(ask)}, embeds),
    }
    for path, (body, answers) in asked.items():
        reply = httpx.post(f"{url}/v1/{path}", json={"model": "tiny", **body})
        if not answers:
            assert reply.status_code == 404 and reply.json()["error"]["message"]
        elif embeds:
            vector = reply.json()["data"][0]["embedding"]
            assert vector == close_to(answer(url, ask), 1e-5)
            asked_for = httpx.get(f"{url}/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
            schema = asked_for["requestBody"]["content"]["application/json"]["schema"]
            assert schema["properties"]["dimensions"]["maximum"] == len(vector)
        else:
            assert reply.json()["choices"][0]["finish_reason"] in ("stop", "length")
    if writes:
        body = {"model": "tiny", "prompt": ask, "temperature": 0}
        told = httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"]
        assert answer(url, ask)["generated_text"].startswith(told)


def test_a_version_is_promoted(folder: Path, trained: dict[str, Any]) -> None:
    command = ["models", "promote", f"tiny:{trained['version']}", "--alias=live"]
    ftray(*command, f"--storage={folder / 'storage'}", cwd=folder)
    told = ftray("evaluate", "tiny@live", f"--storage={folder / 'storage'}", cwd=folder)
    assert told["version"] == trained["version"]
