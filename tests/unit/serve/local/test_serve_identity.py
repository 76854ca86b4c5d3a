"""What tells a service's requests from those of another one: ports, files, and a token."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from ftray.errors import ServeError
from ftray.serve.local import ports as port
from ftray.serve.local.haproxy import BINARY, MISDIRECTED, STAMP
from ftray.serve.local.identity import CALLBACK, TOKEN, middlewares
from ftray.serve.local.ingress import fast_ingress
from ftray.serve.local.ports import BLOCK, port_block


def wrapped(token: str) -> TestClient:
    app = FastAPI()
    app.get("/healthz")(lambda: "ok")
    (middleware,) = middlewares()
    return TestClient(middleware.cls(app, *middleware.args, **middleware.kwargs))


def test_a_server_answers_its_own_proxy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "mine")
    client = wrapped("mine")
    own = client.get("/healthz", headers={STAMP: "mine"})
    assert (own.status_code, own.headers[STAMP]) == (200, "mine")
    for path in ("/healthz", "/nothing"):
        for headers in ({}, {STAMP: "theirs"}):
            other = client.get(path, headers=headers)
            assert other.status_code == MISDIRECTED and STAMP not in other.headers


def test_without_a_token_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert middlewares() == []


def their_own() -> list[Middleware]:
    return [Middleware(lambda app: app)]


def test_what_a_user_set_stays_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CALLBACK, f"{__name__}:their_own")
    monkeypatch.setenv("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "8501")
    monkeypatch.setenv(BINARY, "/opt/haproxy")
    with fast_ingress():
        assert len(middlewares()) == 2
        assert os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == "8501"
        command = open(os.environ[BINARY]).read()  # noqa: SIM115, PTH123
        assert "/opt/haproxy" in command and command.startswith("#!")
    assert os.environ[BINARY] == "/opt/haproxy" and TOKEN not in os.environ


def test_a_service_without_haproxy_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with fast_ingress():
        assert TOKEN not in os.environ and CALLBACK not in os.environ


def test_a_service_has_names_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "of a service that started this one")
    seen = []
    for _ in range(2):
        with fast_ingress():
            seen.append(dict(os.environ))
    folders = ("BINARY_PATH", "CONFIG_FILE_LOC", "SOCKET_PATH", "STATE_BASE", "STATE_FILE")
    own = [TOKEN, *(key for key in seen[0] if "HAPROXY" in key and key.endswith(folders))]
    assert len(own) == 7
    for key in own:
        assert len({os.environ.get(key), seen[0][key], seen[1][key]}) == 3


def test_blocks_of_ports_never_overlap() -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda _: stack.enter_context(port_block()), range(20)))
        ports = [number for block in blocks for number in block]
        assert len(set(ports)) == len(ports) == 20 * (BLOCK - 1)


def test_no_block_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    # A block of its own: services of other tests may hold any of the others.
    monkeypatch.setattr(port, "_BLOCKS", range(18_432, 18_432 + BLOCK, BLOCK))
    with port_block(), pytest.raises(ServeError, match="all are taken"), port_block():
        pass
