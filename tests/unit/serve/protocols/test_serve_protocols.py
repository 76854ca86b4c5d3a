"""The protocols of a served model, and its page, on a made-up model in this process."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftray.serve.http.app import create_api
from ftray.serve.interface import Answers, Overloaded
from ftray.serve.ops.metrics import Metrics
from ftray.serve.schemas import MAX_ROWS, MAX_TEXT
from tests.helpers.serving.fake_backend import INFO, LABELS, FakeBackend, FakeBackends, scores


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics("one")


@pytest.fixture(scope="module")
def client(metrics: Metrics) -> Iterator[TestClient]:
    with TestClient(create_api(FakeBackends(), metrics)) as client:
        yield client


def test_a_wrong_method_is_told_the_right_one(client: TestClient) -> None:
    answer = client.get("/v1/predict")
    assert answer.status_code == 405
    assert answer.json()["error"]["message"] == "send POST, not GET"


INFER = "/v2/models/reviews/infer"
TEXTS = ["dull", "a wonderful film", "naïve 🎬"]


def tensor(data: Any, **changes: Any) -> dict[str, Any]:
    shape = [len(data) if isinstance(data, list) else 1]
    return {"name": "text", "shape": shape, "datatype": "BYTES", "data": data, **changes}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("path", [INFER, "/v2/models/reviews/versions/3/infer"])
def test_v2_gives_label_score_and_probabilities(
    client: TestClient, path: str, nested: bool
) -> None:
    data: list[Any] = [[text] for text in TEXTS] if nested else TEXTS
    asked = tensor(data, shape=[3, 1]) if nested else tensor(data)
    answer = client.post(path, json={"id": "seven", "inputs": [asked]}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (
        "reviews",
        "3",
        "seven",
    )
    found = {output["name"]: output for output in answer["outputs"]}
    assert found["label"]["data"] == ["good", "good", "good"]
    assert (found["label"]["datatype"], found["label"]["shape"]) == ("BYTES", [3])
    assert found["score"]["data"] == [scores(text)["good"] for text in TEXTS]
    assert found["probabilities"]["shape"] == [3, 3]
    expected = [scores(text)[label] for text in TEXTS for label in LABELS]
    assert found["probabilities"]["data"] == expected


def test_v2_gives_the_outputs_that_are_asked_for_in_that_order(client: TestClient) -> None:
    wanted = [{"name": "score"}, {"name": "label", "parameters": {"binary_data": False}}]
    answer = client.post(INFER, json={"inputs": [tensor(["dull"])], "outputs": wanted}).json()
    assert [output["name"] for output in answer["outputs"]] == ["score", "label"]


def binary(texts: Sequence[bytes], **changes: Any) -> tuple[bytes, dict[str, str]]:
    """A request as Triton's client writes it: the texts behind the JSON."""
    blob = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    asked = tensor(None, shape=[len(texts)], parameters={"binary_data_size": len(blob)}) | changes
    del asked["data"]
    head = json.dumps({"inputs": [asked]}).encode()
    return head + blob, {"inference-header-content-length": str(len(head))}


def test_v2_takes_binary_tensors(client: TestClient) -> None:
    body, headers = binary([text.encode() for text in TEXTS])
    headers["content-type"] = "application/octet-stream"
    answer = client.post(INFER, content=body, headers=headers).json()
    assert answer["outputs"][1]["data"] == [scores(text)["good"] for text in TEXTS]


def test_v2_says_what_it_serves(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "ftray"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").status_code == 200
    for path in ("/v2/models/reviews", "/v2/models/reviews/versions/3"):
        about = client.get(path).json()
        assert (about["name"], about["versions"]) == ("reviews", ["3"])
        assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert about["outputs"][2]["shape"] == [-1, 3]
        assert about["parameters"]["labels"] == list(LABELS)
        assert client.get(f"{path}/ready").json()["ready"] is True


WRONG: list[tuple[str, Any, str]] = [
    ("no json", b"{inputs", "body"),
    ("no object", ["a"], "body"),
    ("no inputs", {}, "inputs"),
    ("no tensor", {"inputs": []}, "inputs"),
    ("another name", {"inputs": [tensor(["a"], name="image")]}, "image"),
    ("two tensors", {"inputs": [tensor(["a"]), tensor(["b"])]}, "one tensor"),
    ("another type", {"inputs": [tensor([1.0], datatype="FP32")]}, "FP32"),
    ("no data", {"inputs": [tensor(None)]}, "data"),
    ("numbers", {"inputs": [tensor(["a", 2])]}, "inputs.0.data.1"),
    ("rows of two", {"inputs": [tensor([["a", "b"]])]}, "inputs.0.data.0"),
    ("a shape of three", {"inputs": [tensor(["a"], shape=[1, 1, 1])]}, "shape"),
    ("a shape of two columns", {"inputs": [tensor(["a", "b"], shape=[1, 2])]}, "shape"),
    ("another shape", {"inputs": [tensor(["a"], shape=[2])]}, "2 rows, the data 1"),
    ("a negative shape", {"inputs": [tensor(["a"], shape=[-1])]}, "shape"),
    ("no texts", {"inputs": [tensor([])]}, "0 rows"),
    ("too many", {"inputs": [tensor(["a"] * (MAX_ROWS + 1))]}, "1,025 rows"),
    ("too long", {"inputs": [tensor(["a" * (MAX_TEXT + 1)])]}, "characters"),
    ("an unknown output", {"inputs": [tensor(["a"])], "outputs": [{"name": "x"}]}, "no output x"),
    ("half a character", b'{"inputs": [{"name": "\\ud800"}]}', "JSON"),
]


@pytest.mark.parametrize(("body", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_v2_says_in_one_message_what_is_wrong(client: TestClient, body: Any, said: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(INFER, content=content)
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert said in response.json()["error"]
    assert len(response.json()["error"]) < 400


@pytest.mark.parametrize(
    ("body", "length", "said"),
    [
        (binary([b"ab"])[0][:-1], None, "came"),
        (binary([b"ab"], parameters={"binary_data_size": 5})[0], None, "5 bytes, and 6 came"),
        (binary([b"\xff"])[0], None, "UTF-8"),
        (binary([b"ab"])[0], "100000", "100000"),
        (binary([b"ab"])[0], "-1", "-1"),
        (binary([b"ab"], shape=[4])[0], None, "4 rows"),
    ],
)
def test_v2_refuses_torn_binary_tensors(
    client: TestClient, body: bytes, length: str | None, said: str
) -> None:
    head = body.index(b"]}") + 2 if length is None else 0
    found = body.rindex(b"}]}") + 3 if length is None else head
    headers = {"inference-header-content-length": length or str(found)}
    response = client.post(INFER, content=body, headers=headers)
    assert (response.status_code, said in response.json()["error"]) == (400, True), response.text


@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/reviews/versions/4", "/v2/models/other/ready", "/v2/x"]
)
def test_v2_knows_no_other_model(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert isinstance(response.json()["error"], str)


def test_a_replica_whose_model_does_not_answer_is_not_ready() -> None:
    sick = FakeBackends()
    sick.fault = sick.entries[0].fault = "a call of the model has not returned for 130 s"
    paths = "/healthz", "/v2/health/ready", "/v2/models/reviews/ready"
    with TestClient(create_api(sick, Metrics("one"))) as client:
        answers = [client.get(path) for path in (*paths, "/v2/health/live")]
        assert [answer.status_code for answer in answers] == [503, 503, 503, 200]
        assert "does not answer" in answers[0].json()["error"]["message"]
        assert [answer.json()["ready"] for answer in answers[1:3]] == [False, False]
        sick.fault = sick.entries[0].fault = ""
        assert [client.get(path).status_code for path in paths] == [200, 200, 200]


class Slow(FakeBackend):
    def __init__(self) -> None:
        super().__init__()
        self.asked, self.free = threading.Semaphore(0), threading.Event()

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        self.asked.release()
        await asyncio.to_thread(self.free.wait, 30)
        return await super().answer(texts, top_k)


def test_more_requests_than_a_replica_may_have_in_hand_are_refused_in_the_protocols_form() -> None:
    slow = Slow()
    api = create_api(FakeBackends(slow), Metrics("one"), max_requests=2)
    with TestClient(api) as client, ThreadPoolExecutor(2) as pool:
        body = {"inputs": ["dull"]}
        first = [pool.submit(client.post, "/v1/predict", json=body) for _ in range(2)]
        try:
            assert all(slow.asked.acquire(timeout=30) for _ in first)
            refused = client.post("/v1/predict", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "2 requests are in hand" in refused.json()["error"]["message"]
            refused = client.post("/v1/chat/completions", json={})
            assert refused.json()["error"]["code"] == "overloaded"
            assert isinstance(client.post(INFER, json={}).json()["error"], str)
            healths = "/healthz", "/v2/health/ready", "/metrics"
            assert [client.get(path).status_code for path in healths] == [200] * 3
        finally:
            slow.free.set()
        assert [answer.result().status_code for answer in first] == [200, 200]
        assert client.post("/v1/predict", json=body).status_code == 200


def test_the_document_refers_to_nothing_that_it_lacks(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    found = re.findall(r'"\$ref": "(.*?)"', json.dumps(document))
    assert found
    for reference in found:
        part: Any = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


def test_a_whole_number_may_have_a_point(client: TestClient) -> None:
    answer = client.post("/v1/predict", json={"inputs": "dull", "top_k": 2.0})
    assert len(answer.json()["outputs"][0]) == 2
    assert client.post("/v1/predict", json={"inputs": "dull", "top_k": 2.5}).status_code == 422


def test_the_model_says_where_it_came_from(client: TestClient) -> None:
    card = client.get("/v1/model").json()
    assert (card["model"], card["version"], card["base"]) == ("reviews", 3, "some/base")
    assert card["labels"] == list(LABELS)
    assert card["metrics"] == INFO.metrics


def test_the_page_loads_nothing_from_outside(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert sorted(loaded) == ["data:,", "playground/app.js", "playground/style.css"]


def test_requests_are_counted_by_protocol(client: TestClient, metrics: Metrics) -> None:
    client.post(INFER, json={"inputs": [tensor(["dull"])]})
    client.get("/nothing/at/all")
    counted = {
        (sample.labels["path"], sample.labels["status"])
        for family in metrics.snapshot([], 0)
        for sample in family.samples
        if sample.name == "ftray_requests_total"
    }
    assert {("/v2", "200"), ("other", "404")} <= counted


@pytest.fixture(scope="module")
def two() -> Iterator[TestClient]:
    """Of a model `reviews`, and a model `other` in another version."""
    backends = FakeBackends(FakeBackend(), FakeBackend("other", 7))
    with TestClient(create_api(backends, Metrics("one"))) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/predict", "reviews"),
        ("/v1/models/reviews/predict", "reviews"),
        ("/v1/models/other/predict", "other"),
        ("/v1/model", "reviews"),
        ("/v1/models/other", "other"),
    ],
)
def test_a_path_says_which_of_several_models(two: TestClient, path: str, name: str) -> None:
    asked = {"inputs": ["dull"]}
    answer = two.post(path, json=asked) if path.endswith("predict") else two.get(path)
    assert (answer.status_code, answer.json()["model"]) == (200, name)
    version = {"reviews": "3", "other": "7"}[name]
    headers = (answer.headers["x-ftray-model"], answer.headers["x-ftray-version"])
    assert headers == (name, version)


def test_v2_finds_each_of_several_models(two: TestClient) -> None:
    asked = {"inputs": [tensor(["dull"])]}
    for path in ("/v2/models/other/infer", "/v2/models/other/versions/7/infer"):
        answer = two.post(path, json=asked).json()
        assert (answer["model_name"], answer["model_version"]) == ("other", "7")
    wrong = two.post("/v2/models/other/versions/3/infer", json=asked)
    assert wrong.status_code == 404
    assert "reviews, version 3 and other, version 7" in wrong.json()["error"]


def test_openai_clients_can_list_the_models(two: TestClient) -> None:
    listed = two.get("/v1/models").json()
    assert listed["object"] == "list"
    kept = [(card["id"], card["object"], card["owned_by"]) for card in listed["data"]]
    assert kept == [("reviews", "model", "ftray"), ("other", "model", "ftray")]


STREAM = "/v1/models/reviews/predict/stream"


def streamed(client: TestClient, lines: Sequence[Any], **query: Any) -> list[Any]:
    body = b"".join(x if isinstance(x, bytes) else json.dumps(x).encode() + b"\n" for x in lines)
    answer = client.post(STREAM, content=body, params=query)
    assert (answer.status_code, answer.headers["x-ftray-version"]) == (200, "3")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_stream_answers_each_line_in_order(client: TestClient) -> None:
    texts = ["dull" * (number % 4) for number in range(101)]
    lines = [text if number % 2 else {"inputs": text} for number, text in enumerate(texts)]
    told = streamed(client, lines)
    best = [max(scores(text).items(), key=lambda item: item[1]) for text in texts]
    assert [row["output"]["score"] for row in told] == [score for _, score in best]
    assert {row["version"] for row in told} == {3}
    assert [len(row["output"]) for row in streamed(client, texts, top_k=2)] == [2] * 101


def test_a_wrong_line_of_a_stream_costs_the_others_nothing(client: TestClient) -> None:
    wrong = [
        {"inputs": 3},
        {"input": "a"},
        3,
        None,
        [],
        ["a"],
        "a" * (MAX_TEXT + 1),
        b'"\\ud800"\n',
        b"{\n",
        b"\n",
        b"NaN\n",
        b'"\xff"\n',
        b"[" * 100_000 + b"\n",
    ]
    told = streamed(client, ["dull", *wrong, "dull"])
    assert len(told) == len(wrong) + 2
    assert "output" in told[0] and "output" in told[-1]
    for row in told[1:-1]:
        assert set(row) == {"error"} and 3 < len(row["error"]["message"]) <= 160, row


def test_a_line_of_a_stream_ends_with_a_newline_alone(client: TestClient) -> None:
    told = streamed(client, [b'"dull"\r\n', b'"a"\r"b"\n', b'"dull"'])
    assert ["output" in row for row in told] == [True, False, True]


def test_an_empty_stream_and_a_wrong_option(client: TestClient) -> None:
    assert streamed(client, []) == []
    assert client.post(STREAM, params={"top_k": 0}).status_code == 422
    assert client.post(STREAM, params={"top_k": "all"}).json()["error"]["field"] == "top_k"


def test_a_stream_waits_where_too_much_is_to_do_and_may_fail_midway() -> None:
    class Moody(FakeBackend):
        asked = 0

        async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
            self.asked += 1
            if self.asked == 1:
                raise Overloaded("1,024 rows are waiting already", 0)
            if "boom" in texts:
                raise ArithmeticError("boom")
            return await super().answer(texts, top_k)

    api = create_api(FakeBackends(Moody()), Metrics("one"))
    with TestClient(api) as client:
        told = streamed(client, ["dull"] * 40 + ["boom"] + ["dull"] * 40)
    assert ["output" in row for row in told] == [True] * 40 + [False] + [True] * 40
    assert "could not answer" in told[40]["error"]["message"]
