"""The served model over real HTTP: two replicas of one application from `build`."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftray.serve.app import build
from ftray.serve.schemas import MAX_BODY, MAX_ROWS, MAX_TEXT

MAX_SIZE = 8
TEXTS = [
    "A wonderful film.",
    "dull",
    "naïve – 日本語 🎬",
    "It is " + "very " * 200 + "long.",
    *(f"Scene {i}: " + "the hero walks " * (i % 17) for i in range(60)),
]


@pytest.fixture(scope="module")
def client(ray_cluster: None, model_folder: Path) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "model": str(model_folder),
        "replicas": {"min": 2, "max": 2},
        "batch": {"max_size": MAX_SIZE, "wait_ms": 20},
        "cpus_per_replica": 0.5,
        "log_requests": True,
    }
    try:
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
        serve.run(build({**settings, "auth": False}), name="reviews")
        limits = httpx.Limits(max_connections=128)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, limits=limits) as client:
            yield client
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def plain(model_folder: Path) -> dict[str, dict[str, float]]:
    """The answers of transformers alone, one text at a time: text -> label -> probability."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    answers = {}
    for text in TEXTS:
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            shares = torch.softmax(model(**inputs).logits[0], -1).tolist()
        answers[text] = {model.config.id2label[i]: share for i, share in enumerate(shares)}
    return answers


def predict(client: httpx.Client, texts: list[str]) -> list[dict[str, float]]:
    response = client.post("/v1/predict", json={"inputs": texts, "top_k": 3})
    assert response.status_code == 200, response.text
    return [{item["label"]: item["score"] for item in row} for row in response.json()["outputs"]]


def samples(client: httpx.Client) -> list[Any]:
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    return [s for family in text_string_to_metric_families(page.text) for s in family.samples]


def total(found: list[Any], name: str, **labels: str) -> float:
    return sum(s.value for s in found if s.name == name and labels.items() <= s.labels.items())


@pytest.mark.parametrize("size", [1, 3, MAX_SIZE, 33])
def test_answers_are_those_of_plain_transformers(
    client: httpx.Client, plain: dict[str, dict[str, float]], size: int
) -> None:
    texts = random.Random(size).sample(TEXTS, len(TEXTS))
    requests = [texts[start : start + size] for start in range(0, len(texts), size)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: predict(client, request), requests))
    for text, answer in zip(texts, (row for rows in answers for row in rows), strict=True):
        assert answer == pytest.approx(plain[text], abs=1e-5)


def test_answers_have_the_shapes_of_the_pipeline_and_name_the_model(client: httpx.Client) -> None:
    one = client.post("/v1/predict", json={"inputs": "dull"})
    body = one.json()
    assert (body["model"], body["version"], len(body["outputs"])) == ("tiny", None, 1)
    assert set(body["outputs"][0]) == {"label", "score"}
    best = client.post("/v1/predict", json={"inputs": ["dull", "good"], "top_k": 2}).json()
    assert [len(row) for row in best["outputs"]] == [2, 2]
    assert best["outputs"][0][0] == pytest.approx(body["outputs"][0])
    assert one.headers["x-ftray-model"] == "tiny"
    assert len(one.headers.get_list("x-request-id")) == 1
    assert client.get("/nothing").headers["x-ftray-model"] == "tiny"
    assert client.get("/healthz").json() == {"status": "ok", "model": "tiny", "version": None}


def test_many_clients_share_forward_passes(client: httpx.Client) -> None:
    before = samples(client)
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda text: predict(client, [text]), TEXTS * 4))
    after = samples(client)

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    rows = len(TEXTS) * 4
    assert grown("ftray_batch_rows_sum") == rows
    # How many rows wait for a pass depends on how fast the machine answers.
    assert grown("ftray_batch_rows_count") < 0.8 * rows
    assert total(after, "ftray_batch_rows_bucket", le=f"{MAX_SIZE}.0") == total(
        after, "ftray_batch_rows_count"
    )
    assert grown("ftray_requests_total", path="/v1/predict", status="200") == rows
    assert grown("ftray_predict_seconds_count") == rows


def test_metrics_are_of_all_replicas_whichever_is_asked(client: httpx.Client) -> None:
    pages = [samples(client) for _ in range(6)]
    replicas = [{s.labels["replica"] for s in page} for page in pages]
    assert len(replicas[0]) == 2
    assert all(names == replicas[0] for names in replicas)
    for page in pages:
        assert total(page, "ftray_replica_up", model="tiny", version="") == 2


DEEP = "[" * 100_000 + "]" * 100_000
WRONG = [
    ("not json", b"{inputs", 400, None),
    ("deep", b'{"inputs": ' + DEEP.encode() + b"}", 400, None),
    ("not utf-8", b'{"inputs": "\xff"}', 400, None),
    ("no object", ["a"], 422, None),
    ("no body", b"", 422, None),
    ("nothing in it", {}, 422, "inputs"),
    ("no rows", {"inputs": []}, 422, "inputs"),
    ("null", {"inputs": None}, 422, "inputs"),
    ("a number", {"inputs": 3}, 422, "inputs"),
    ("a number among texts", {"inputs": ["a", 3]}, 422, "inputs.1"),
    ("nested", {"inputs": [["a"]]}, 422, "inputs.0"),
    ("not a number", b'{"inputs": [NaN]}', 422, "inputs.0"),
    ("half a character", b'{"inputs": ["\\ud800"]}', 422, "inputs.0"),
    ("half a character as key", b'{"inputs": "a", "\\ud800": 1}', 422, None),
    ("too many rows", {"inputs": ["a"] * (MAX_ROWS + 1)}, 422, "inputs"),
    ("a text too long", {"inputs": "a" * (MAX_TEXT + 1)}, 422, "inputs.0"),
    ("top_k 0", {"inputs": "a", "top_k": 0}, 422, "top_k"),
    ("top_k true", {"inputs": "a", "top_k": True}, 422, "top_k"),
    ("top_k text", {"inputs": "a", "top_k": "2"}, 422, "top_k"),
    ("unknown key", {"inputs": "a", "topk": 2}, 422, "topk"),
    ("too long", b'{"inputs": "' + b"a" * MAX_BODY + b'"}', 413, None),
]


@pytest.mark.parametrize(
    ("body", "status", "field"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_wrong_request_gets_one_clear_message(
    client: httpx.Client, body: Any, status: int, field: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    response = client.post("/v1/predict", content=content, headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["field"] == field
    assert 3 < len(error["message"]) < 300
    assert predict(client, ["still here"])


def test_wrong_paths_methods_and_media(client: httpx.Client) -> None:
    form = client.post("/v1/predict", data={"inputs": "a"})
    assert (form.status_code, "Content-Type" in form.json()["error"]["message"]) == (415, True)
    assert client.get("/v1/predict").status_code == 405
    missing = client.get("/v1/nothing")
    assert (missing.status_code, "/v1/predict" in missing.json()["error"]["message"]) == (404, True)
    # The documentation pages would load scripts from other hosts.
    assert client.get("/docs").status_code == 404


def test_a_body_without_announced_length_is_limited_too(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"inputs": "'
        for _ in range(MAX_BODY // 65536 + 1):
            yield b"a" * 65536
        yield b'"}'

    headers = {"content-type": "application/json"}
    response = client.post("/v1/predict", content=chunks(), headers=headers)
    assert response.status_code == 413, response.text


def test_the_largest_request_is_answered(client: httpx.Client) -> None:
    response = client.post("/v1/predict", json={"inputs": ["ok"] * MAX_ROWS})
    assert len(response.json()["outputs"]) == MAX_ROWS


def test_the_document_describes_what_is_answered(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    own = {path for path in document["paths"] if not path.startswith("/v2")}
    assert own == {
        *("/v1/predict", "/v1/predict/stream", "/v1/model", "/v1/models", "/healthz", "/metrics"),
        *("/v1/models/{name}", "/v1/models/{name}/predict", "/v1/models/{name}/predict/stream"),
        *("/v1/completions", "/v1/chat/completions", "/v1/embeddings"),
    }
    assert "/v2/models/{name}/infer" in document["paths"]
    answers = document["paths"]["/v1/predict"]["post"]["responses"]
    assert set(answers) == {"200", "400", "413", "415", "422", "503"}
    assert "HTTPValidationError" not in json.dumps(document)


def test_a_request_is_found_again_in_the_log_by_its_id(
    client: httpx.Client, ray_session: Path
) -> None:
    headers = {"x-request-id": "order-66"}
    client.post("/v1/predict", json={"inputs": "secret words"}, headers=headers)
    end, found = time.monotonic() + 120, []
    while not found and time.monotonic() < end:
        logs = [file.read_text() for file in (ray_session / "logs/serve").glob("replica_*.log")]
        found = [line for log in logs for line in log.splitlines() if "order-66" in line]
        time.sleep(0.1)
    (line,) = found
    told = json.loads(line)
    assert told["request_id"] == "order-66" and "/v1/predict 200" in told["message"]
    assert "secret words" not in "".join(logs)
