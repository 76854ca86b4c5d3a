"""An application below a path: Serve's route_prefix, and a proxy that cuts a path off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from ftray.serve.http.app import create_api
from ftray.serve.http.auth import add_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.ops.metrics import Metrics
from ftray.store.files.location import locate
from tests.helpers.serving.fake_backend import FakeBackends

# The path that the client asks below, root_path as Serve says it, what a proxy has cut off.
PLACES = {
    "at the root": ("", "", ""),
    "below a route prefix": ("/reviews", "/reviews", ""),
    "behind a proxy that cuts it off": ("", "", "/models"),
    "behind one that Serve is told of, too": ("/models/reviews", "/models/reviews", ""),
}


@pytest.fixture(params=PLACES.values(), ids=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TestClient, str, str]]:
    """A client, a valid key, and the path before every other one that it is to ask for."""
    prefix, root, cut = request.param
    file = locate(str(tmp_path / "keys.txt"))
    key = add_key(file, "app")
    app = create_api(FakeBackends(), Metrics("one"), Keyring(file))

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(cut) or "/"
        await app({**scope, "path": path, "root_path": root}, receive, send)

    yield TestClient(served), key, cut + prefix


def test_health_and_page_need_no_key_and_the_rest_does(place: tuple[TestClient, str, str]) -> None:
    client, key, prefix = place
    for path in ("/healthz", "/", "/playground/app.js", "/v2/health/ready"):
        assert client.get(prefix + path).status_code == 200
    assert client.get(f"{prefix}/v1/models").status_code == 401
    headers = {"authorization": f"Bearer {key}"}
    answer = client.post(f"{prefix}/v1/predict", json={"inputs": "dull"}, headers=headers)
    assert answer.status_code == 200
    if prefix:
        assert client.get(prefix).status_code == 200, "the page, by a redirect to its slash"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/predict", {"error": {"message", "field"}}),
        ("/v2/models/reviews/infer", {"error"}),
        ("/v1/completions", {"error": {"message", "type", "param", "code"}}),
    ],
)
def test_errors_have_the_shape_of_their_protocol(
    place: tuple[TestClient, str, str], path: str, shape: dict[str, set[str]] | set[str]
) -> None:
    client, key, prefix = place
    for headers in ({}, {"authorization": f"Bearer {key}"}):
        error = client.post(prefix + path, json={}, headers=headers).json()
        assert set(error) == {"error"}
        assert isinstance(error["error"], str if isinstance(shape, set) else dict)
        if isinstance(shape, dict):
            assert set(error["error"]) == shape["error"]


def test_long_bodies_are_refused(
    place: tuple[TestClient, str, str],
) -> None:
    client, key, prefix = place
    headers = {"authorization": f"Bearer {key}", "content-length": str(1 << 40)}
    assert client.post(f"{prefix}/v1/predict", headers=headers).status_code == 413


def test_the_document_says_where_its_paths_lie(place: tuple[TestClient, str, str]) -> None:
    client, key, prefix = place
    address = f"{prefix}/openapi.json"
    told = client.get(address, headers={"authorization": f"Bearer {key}"})
    document = json.loads(told.text)
    (server,) = document["servers"]
    base = urljoin(f"http://testserver{address}", server["url"])
    assert base.rstrip("/") == f"http://testserver{prefix}"
