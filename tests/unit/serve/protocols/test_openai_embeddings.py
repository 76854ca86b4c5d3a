"""The embeddings path of OpenAI's protocol, on a made-up model in this process."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from ftray.serve.http.app import create_api
from ftray.serve.interface import Answers, BadPrompt
from ftray.serve.ops.metrics import Metrics
from tests.helpers.serving.fake_backend import INFO, FakeBackend, FakeBackends

PATH = "/v1/embeddings"


class Embedder(FakeBackend):
    """The vector of a text has its length in front."""

    info = INFO.model_copy(update={"task": "feature-extraction", "labels": (), "embedding_size": 3})

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        if "" in [text.strip() for text in texts]:
            raise BadPrompt("prompt.0", "there is nothing in it that the model reads", "empty")
        vectors = [[float(len(text)), 3.0, 4.0] for text in texts]
        return Answers(self.name, self.version, (), vectors, [""], sum(map(len, texts)))


@pytest.fixture
def client() -> Iterator[TestClient]:
    backends = FakeBackends(Embedder("near", 3), FakeBackend())
    with TestClient(create_api(backends, Metrics("one"))) as client:
        yield client


def asked(client: TestClient, status: int = 200, **fields: Any) -> Any:
    answer = client.post(PATH, json={"model": "near", "input": "text", **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_each_text_has_its_vector(client: TestClient) -> None:
    assert asked(client, input=["a", "four"], user="me") == {
        "object": "list",
        "model": "near",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1, 3, 4]},
            {"object": "embedding", "index": 1, "embedding": [4, 3, 4]},
        ],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    (only,) = asked(client, input="four")["data"]
    assert only["embedding"] == [4, 3, 4]


def test_base64_holds_the_same_numbers(client: TestClient) -> None:
    (told,) = asked(client, encoding_format="base64")["data"]
    assert np.frombuffer(b64decode(told["embedding"]), "<f4").tolist() == [4, 3, 4]


def test_fewer_numbers_have_length_1(client: TestClient) -> None:
    (told,) = asked(client, dimensions=2)["data"]
    assert told["embedding"] == pytest.approx([0.8, 0.6])
    (told,) = asked(client, dimensions=3)["data"]
    assert told["embedding"] == [4, 3, 4]
    error = asked(client, 400, dimensions=4)["error"]
    assert error["param"] == "dimensions" and "3 numbers" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [""]}, "input.0"),
        ({"input": [1, 2]}, "input.0"),
        ({"input": ["a"] * 1025}, "input"),
        ({"input": {"text": "a"}}, "input.0"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    assert asked(client, 400, **fields)["error"]["param"] == param


def test_a_text_without_content_is_named(client: TestClient) -> None:
    assert asked(client, 400, input=[" ", "a"])["error"]["param"] == "input.0"


def test_a_model_that_does_not_embed_is_told(client: TestClient) -> None:
    error = asked(client, 404, model="reviews")["error"]
    assert error["code"] == "model_not_supported"
    assert "/v1/models/reviews/predict" in error["message"]
    error = asked(client, 404, model="no")["error"]
    assert error["code"] == "model_not_found" and "near" in error["message"]


def test_the_document_has_the_path(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "422" not in document["paths"][PATH]["post"]["responses"]


def test_the_document_has_the_most_dimensions_of_any_model(client: TestClient) -> None:
    assert _limits(client) == {"maximum": 3}
    asked(client, dimensions=3)
    asked(client, 400, dimensions=4)
    wide, old = Embedder("wide"), Embedder("old")
    wide.info = wide.info.model_copy(update={"embedding_size": 5})
    old.info = old.info.model_copy(update={"embedding_size": None})
    with TestClient(create_api(FakeBackends(Embedder(), wide, old), Metrics("one"))) as several:
        assert _limits(several) == {"maximum": 5}
    with TestClient(create_api(FakeBackends(old), Metrics("one"))) as unknown:
        assert _limits(unknown) == {}


def _limits(client: TestClient) -> Any:
    body = client.get("/openapi.json").json()["paths"][PATH]["post"]["requestBody"]
    return body["content"]["application/json"]["schema"]["properties"]["dimensions"]
