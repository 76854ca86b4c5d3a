"""What a stranger's page in a browser can make of a service: nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from ftray.serve.http.app import create_api
from ftray.serve.http.auth import add_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.ops.metrics import Metrics
from ftray.store.files.location import Location, locate
from tests.helpers.serving.fake_backend import FakeBackends

ASKED = b'{"inputs": ["dull"]}'


@pytest.fixture
def file(tmp_path: object) -> Location:
    return locate(f"{tmp_path}/keys.txt")


@pytest.fixture
def local() -> Iterator[TestClient]:
    with TestClient(create_api(FakeBackends(), Metrics("one"), loopback=True)) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("127.0.0.2:80", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1", 403),
        ("", 403),
    ],
)
def test_a_name_that_leads_here_is_not_asked_for_by_a_strangers_page(
    local: TestClient, host: str, status: int
) -> None:
    for path in ("/", "/v1/model", "/openapi.json"):
        assert local.get(path, headers={"host": host}).status_code == status


def test_who_has_a_key_or_no_loopback_may_use_any_name(file: Location) -> None:
    key = {"authorization": f"Bearer {add_key(file, 'app')}", "host": "api.example.com"}
    with TestClient(create_api(FakeBackends(), Metrics("one"), Keyring(file), True)) as client:
        assert client.get("/v1/model", headers=key).status_code == 200
    with TestClient(create_api(FakeBackends(), Metrics("one"))) as client:
        assert client.get("/v1/model", headers={"host": "api.example.com"}).status_code == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain; application/json", 415),
        (None, 415),
    ],
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/stream", "/v2/models/reviews/infer"])
def test_what_a_form_can_send_is_not_taken(
    local: TestClient, path: str, kind: str | None, status: int
) -> None:
    body = {
        "/v1/predict": ASKED,
        "/v1/predict/stream": b'"dull"',
        "/v2/models/reviews/infer": b'{"inputs": [{"name": "text", "shape": [1], "datatype": '
        b'"BYTES", "data": ["dull"]}]}',
    }[path]
    headers = {"host": "localhost", "origin": "http://x"} | (
        {} if kind is None else {"content-type": kind}
    )
    assert local.post(path, content=body, headers=headers).status_code == status


def test_no_answer_is_taken_for_another_type(local: TestClient) -> None:
    for path in ("/", "/playground/app.js", "/v1/model", "/metrics", "/nothing"):
        answer = local.get(path, headers={"host": "localhost"})
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert local.get("/").headers["x-content-type-options"] == "nosniff", "nor a refusal"


def test_nothing_runs_in_the_page_but_its_own_files(local: TestClient) -> None:
    page = local.get("/", headers={"host": "localhost"})
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy and "://" not in policy
    for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "base-uri 'none'",
                 "form-action 'none'", "frame-ancestors 'none'", "img-src data: blob:",
                 "connect-src 'self'", "require-trusted-types-for 'script'"):  # fmt: skip
        assert rule in policy.split("; ")
    assert not re.search(r"<style|<script(?! type=\"module\" src=)", page.text)
    assert not re.search(r"\s(style|on\w+)=", page.text), "what the policy does not allow"
