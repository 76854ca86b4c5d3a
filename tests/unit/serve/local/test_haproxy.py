"""The real HAProxy with Ray's own configuration as ftray edits it, before made-up replicas."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from ftray.serve.local.haproxy import BINARY, MISDIRECTED, STAMP, connections
from ftray.serve.local.identity import TOKEN
from ftray.serve.local.ingress import fast_ingress
from tests.helpers.serving.served import free_port


class Replica(ThreadingHTTPServer):
    """Answers its name to what bears `token`, as `identity` has a real one do; dies of poison.

    token: None for one that checks nothing and stamps nothing; asked: bodies that it got.
    """

    daemon_threads, request_queue_size = True, 128

    def __init__(self, name: str, token: str | None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.name, self.token = name, token
        self.asked: list[bytes] = []
        self.seen: list[dict[str, str]] = []
        self.status = 200
        self.open: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def die(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)  # until the proxy has noticed

    def handle_error(self, *_: Any) -> None:
        """Health checks end before they read."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def setup(self) -> None:
        super().setup()
        self.server.open.append(self.connection)

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append(body)
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        if body == b"poison":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer()

    def _answer(self) -> None:
        token, content = self.server.token, self.server.name.encode()
        fits = token is None or self.headers.get(STAMP) == token
        health = self.path == "/-/healthz"
        self.send_response((200 if health else self.server.status) if fits else MISDIRECTED)
        self.send_header("content-length", str(len(content)))
        if token is not None and fits:
            self.send_header(STAMP, token)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def token() -> Iterator[str]:
    """Of a service whose settings are in the environment."""
    with fast_ingress():
        yield os.environ[TOKEN]


@contextmanager
def proxied(
    folder: Path, replicas: Sequence[Replica], checked: str = "60s", binary: str = ""
) -> Iterator[tuple[str, psutil.Process]]:
    """The URL of a HAProxy before them, and its process. checked: how often a health check
    looks at a replica; by default requests come before that. binary: in
    place of the service's own."""
    port = free_port()
    config = _configured(folder, port, replicas, checked)
    process = subprocess.Popen([binary or os.environ[BINARY], "-db", "-f", str(config)])
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _configured(folder: Path, port: int, replicas: Sequence[Replica], checked: str) -> Path:
    """The file, as Ray writes it."""
    cfg = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        retry_on=os.environ["RAY_SERVE_HAPROXY_RETRY_ON"],
        retries=int(os.environ["RAY_SERVE_HAPROXY_RETRIES"]),
        timeout_client_s=75,
        health_check_fall=1,
        health_check_inter=checked,
        health_check_fastinter=checked,
        health_check_downinter=checked,
        metrics_enabled=False,
        has_received_routes=True,
        has_received_servers=True,
    )
    servers = [ServerConfig(r.name, "127.0.0.1", r.server_port) for r in replicas]
    backend = BackendConfig("http-tiny", "/", servers=servers, app_name="tiny")
    api = HAProxyApi(cfg, {"http-tiny": backend}, str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    return Path(api.config_file_path)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)


def ask(url: str, body: bytes = b"text", **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/predict", content=body, headers=headers, timeout=30)


def test_the_stamp_reaches_replicas_and_no_client_reads_or_forges_it(
    tmp_path: Path, token: str
) -> None:
    own = Replica("own", token)
    with proxied(tmp_path, [own]) as (url, _):
        answer = ask(url, **{STAMP: "forged"})
        assert (answer.status_code, answer.text) == (200, "own")
    assert STAMP not in answer.headers and token not in str(answer.headers)
    assert own.seen[0][STAMP] == token


@pytest.mark.parametrize("other", ["its own token", None])
def test_what_took_a_dead_replicas_port_answers_nothing(
    tmp_path: Path, token: str, other: str | None
) -> None:
    dead, own = Replica("dead", token), Replica("own", token)
    with proxied(tmp_path, [dead, own]) as (url, _):
        assert {ask(url).text for _ in range(8)} == {"dead", "own"}
        dead.die()
        taken = Replica("other", other, dead.server_port)
        answers = [ask(url) for _ in range(20)]
        assert "other" not in {answer.text for answer in answers}
        if other is not None:  # it refused, so that another replica was asked
            assert {answer.text for answer in answers} == {"own"}
    with proxied(tmp_path, [taken]) as (url, _):
        answer = ask(url, b"a" * 100_000)  # too long to be tried again
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert taken.asked


@pytest.mark.parametrize("other", ["its own token", None])
def test_another_services_replica_is_not_healthy(
    tmp_path: Path, token: str, other: str | None
) -> None:
    replica = Replica("other", other)
    with proxied(tmp_path, [replica], "500ms") as (url, _):
        for bears, status in ((other, 503), (token, 200)):
            replica.token = bears
            end = time.monotonic() + 30
            while httpx.get(f"{url}/-/healthz").status_code != status:
                assert time.monotonic() < end
                time.sleep(0.1)


def test_a_request_that_ends_a_replica_is_not_sent_to_the_next(tmp_path: Path, token: str) -> None:
    replicas = [Replica(name, token) for name in ("a", "b", "c")]
    with proxied(tmp_path, replicas) as (url, _):
        answer = ask(url, b"poison")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert sum(replica.asked.count(b"poison") for replica in replicas) == 1


def test_a_request_that_no_replica_got_goes_to_another_one(tmp_path: Path, token: str) -> None:
    gone, own = Replica("gone", token), Replica("own", token)
    gone.die()
    with proxied(tmp_path, [gone, own]) as (url, _):
        assert {ask(url).text for _ in range(8)} == {"own"}


@pytest.mark.parametrize("status", [404, 500])
def test_what_ray_says_in_place_of_a_model_is_that_none_is_there(
    tmp_path: Path, token: str, status: int
) -> None:
    fallback = Replica("fallback", token)
    fallback.status = status
    with proxied(tmp_path, [fallback]) as (url, _):
        answer = httpx.get(f"{url}/healthz")
    assert answer.status_code == 503
    assert "no replica can be reached" in answer.json()["error"]["message"]


def test_no_page_of_figures_and_no_socket_for_others(tmp_path: Path, token: str) -> None:
    with proxied(tmp_path, [Replica("own", token)]) as (url, haproxy):
        listening = [c for c in haproxy.net_connections() if c.status == psutil.CONN_LISTEN]
        assert [f"http://{c.laddr.ip}:{c.laddr.port}" for c in listening] == [url]
        assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_the_proxy_ends_with_the_process_that_started_it(tmp_path: Path, token: str) -> None:
    config = _configured(tmp_path, free_port(), [Replica("own", token)], "60s")
    command = [os.environ[BINARY], "-db", "-f", str(config)]
    code = (
        "import subprocess, time\n"
        f"print(subprocess.Popen({command!r}).pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(["python3", "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    while "haproxy" not in psutil.Process(child.pid).exe():  # which it remembers
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert not alive


SLOW = 4_300


def _slow(count: int, port: int, sent: bytes) -> list[socket.socket]:
    def opened(_: int) -> socket.socket:
        connection = socket.socket()
        with suppress(ConnectionError):  # the proxy takes no more of them
            connection.connect(("127.0.0.1", port))
            connection.sendall(sent)
        return connection

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(opened, range(count)))


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nten",
    ],
    ids=["headers", "body"],
)
def test_thousands_of_slow_clients_block_nobody_and_are_cut_off(
    tmp_path: Path, token: str, sent: bytes
) -> None:
    own = Replica("own", token)
    with proxied(tmp_path, [own]) as (url, _):
        slow = _slow(SLOW, int(url.rpartition(":")[2]), sent)
        try:
            began = time.monotonic()
            assert all(ask(url).text == "own" for _ in range(20))
            assert time.monotonic() - began < 30
            assert len(own.asked) == 20, "no slow one has reached the replica"
            slow[0].settimeout(20)
            assert b" 408 " in slow[0].recv(100)
        finally:
            for connection in slow:
                connection.close()


def test_one_address_does_not_get_all_connections(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_MAXCONN", "40")
    with proxied(tmp_path, [Replica("own", token)]) as (url, _):
        port = int(url.rpartition(":")[2])
        slow = _slow(60, port, b"POST /v1/predict HTTP/1.1\r\n")
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport) as other:
            assert other.post(url, content=b"text", timeout=60).text == "own"
        for connection in slow:
            connection.close()


def test_a_limit_on_files_limits_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_HAPROXY_MAXCONN", raising=False)
    for files, most in ((4096, 1194), (20_000, 6496), (-1, 16_384), (1 << 20, 16_384)):
        monkeypatch.setattr("resource.getrlimit", lambda _, files=files: (files, files))
        assert connections() == most


def test_the_command_for_clusters_closes_as_much_and_stamps_nothing(
    tmp_path: Path, token: str
) -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["ftray-haproxy"].split(":")
    command = tmp_path / "ftray-haproxy"
    command.write_text(f"#!{sys.executable}\nfrom {module} import {name}\n{name}()\n")
    command.chmod(0o700)
    replica = Replica("any", None)
    replica.status = 404
    with proxied(tmp_path, [replica], binary=str(command)) as (url, haproxy):
        answer = ask(url)
        assert (answer.status_code, answer.text) == (404, "any"), "an application's own words"
        assert STAMP not in replica.seen[0]
        listening = [c for c in haproxy.net_connections() if c.status == psutil.CONN_LISTEN]
        assert [f"http://{c.laddr.ip}:{c.laddr.port}" for c in listening] == [url]
        assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
        (slow,) = _slow(1, int(url.rpartition(":")[2]), b"POST / HTTP/1.1\r\nHost: a\r\n")
        slow.settimeout(30)
        assert b" 408 " in slow.recv(100)
        slow.close()
