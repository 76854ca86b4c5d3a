"""An S3 server for tests: moto's server behind a proxy that can fail in the ways that S3 fails.

`object_store` is a fixture in `tests/conftest.py`. Other processes reach the store by `url`, which
carries the endpoint and keys, or by the variables in `environment`.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.fs as pafs

from ftray.store.files.location import Location, locate

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class Fault(Enum):
    """What the proxy does instead of answering correctly."""

    BUSY = "503 SlowDown to every request"
    CUT_UPLOADS = "the connection is reset in the middle of a body that is sent"
    CUT_DOWNLOADS = "the connection is reset in the middle of a body that is received"
    LOSE_ANSWERS = "requests are carried out and the connection is reset before the answer"
    SILENT = "requests are read and never answered"
    FORBIDDEN = "403 AccessDenied to every request"


class ObjectStore:
    """An S3 server with one bucket, `data`."""

    bucket = "data"

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.upstream: tuple[str, int] = self._moto.get_host_and_port()
        self.fault: Fault | None = None
        self.requests: Counter[str] = Counter()
        """Method -> requests received, answered or not."""
        self.condition = threading.Lock()
        """Held while a conditional request is carried out: S3 runs such requests one by one."""
        self._proxy: _Proxy | None = None
        self.port = 0
        self.start()
        fs, _ = pafs.FileSystem.from_uri(self.url() + "&allow_bucket_creation=true")
        fs.create_dir(self.bucket)

    def url(self, path: str = "root") -> str:
        """The URL of this path, with the keys."""
        return f"s3://test:test@{self.bucket}/{path}?{self._options()}"

    def spec_url(self, path: str = "root") -> str:
        """The URL of this path in a spec, for processes that have `KEYS` set."""
        return f"s3://{self.bucket}/{path}?{self._options()}"

    def bare_url(self, path: str = "root") -> str:
        """The URL of this path for processes that have `environment` set."""
        return f"s3://{self.bucket}/{path}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which pyarrow and boto3 find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            **KEYS,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def at(self, path: str = "root") -> Location:
        return locate(self.url(path))

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of the objects that begin with `prefix`, read from the server behind the proxy."""
        infos = self._direct().get_file_info(pafs.FileSelector(self.bucket, recursive=True))
        keys = [info.path.partition("/")[2] for info in infos if info.type == pafs.FileType.File]
        return sorted(key for key in keys if key.startswith(prefix))

    def start(self) -> None:
        """Listens, on the same port as before."""
        assert self._proxy is None
        self._proxy = _Proxy(self, self.port)
        self.port = self._proxy.server_address[1]

    def stop(self) -> None:
        """Refuses new connections and resets the open ones."""
        if self._proxy is not None:
            self._proxy.stop()
            self._proxy = None

    @contextmanager
    def stopped(self, seconds: float | None = None) -> Iterator[None]:
        """Keeps the proxy stopped inside the block, or for `seconds` from its start."""
        self.stop()
        with self._ended_by(self.start, seconds):
            yield

    @contextmanager
    def failing(self, fault: Fault, seconds: float | None = None) -> Iterator[None]:
        """Makes the proxy answer with `fault` inside the block, or for `seconds` from now on."""
        self.fault = fault

        def mend() -> None:
            self.fault = None

        with self._ended_by(mend, seconds):
            yield

    @contextmanager
    def _ended_by(self, mend: Any, seconds: float | None) -> Iterator[None]:
        timer = threading.Timer(seconds, mend) if seconds is not None else None
        if timer is not None:
            timer.start()
        try:
            yield
        finally:
            if timer is None:
                mend()
            else:
                timer.join()

    def empty(self) -> None:
        """Deletes all objects."""
        fs = self._direct()
        fs.delete_dir_contents(self.bucket, missing_dir_ok=True)

    def mend(self) -> None:
        """Ends every fault."""
        self.fault = None
        if self._proxy is None:
            self.start()

    def close(self) -> None:
        self.stop()
        self._moto.stop()

    def _direct(self) -> pafs.FileSystem:
        host, port = self.upstream
        options = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        return pafs.FileSystem.from_uri(f"s3://test:test@{self.bucket}?{options}")[0]

    def _options(self) -> str:
        return f"scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, store: ObjectStore, port: int) -> None:
        self.store = store
        self.over = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of clients that have disconnected: they do not concern a test."""

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                reset(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.server.store.requests[self.command] += 1
        self._serve(self.server.store.fault)

    def _serve(self, fault: Fault | None) -> None:
        if fault is Fault.CUT_UPLOADS and self._length() > 0:
            self.rfile.read(self._length() // 2)
            self._reset()
            return
        body = self._body()
        if fault is Fault.BUSY:
            self._answer(503, "Slow Down", [("Content-Type", "application/xml")], _BUSY)
            return
        if fault is Fault.FORBIDDEN:
            denied = _BUSY.replace(b"SlowDown", b"AccessDenied")
            self._answer(403, "Forbidden", [("Content-Type", "application/xml")], denied)
            return
        if fault is Fault.SILENT:
            while not self.server.over.wait(0.1) and self.server.store.fault is Fault.SILENT:
                pass
            self._reset()
            return
        status, reason, headers, content = self._forward(body)
        if fault is Fault.LOSE_ANSWERS:
            self._reset()
        elif fault is Fault.CUT_DOWNLOADS and self.command == "GET" and len(content) > 1:
            self._answer(status, reason, headers, content, sent=len(content) // 2)
            self._reset()
        else:
            self._answer(status, reason, headers, content)

    def _length(self) -> int:
        """Body length in bytes; for a chunked body, the decoded length."""
        length = self.headers.get("Content-Length")
        return int(length or self.headers.get("X-Amz-Decoded-Content-Length") or 0)

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(self._length())
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _forward(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        if "If-Match" in self.headers or "If-None-Match" in self.headers:
            with self.server.store.condition:
                return self._ask(body)
        return self._ask(body)

    def _ask(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.server.store.upstream, timeout=120)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in (*_HOP_BY_HOP, "expect"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            headers = answer.getheaders()
            return answer.status, answer.reason, headers, content
        finally:
            connection.close()

    def _answer(
        self,
        status: int,
        reason: str,
        headers: list[tuple[str, str]],
        content: bytes,
        sent: int | None = None,
    ) -> None:
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        self.send_response_only(status, reason)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        # The answer to a HEAD request names the length of a body that it does not carry.
        length = lengths[0] if self.command == "HEAD" and lengths else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)


def reset(connection: socket.socket) -> None:
    """Closes the connection so that the other end sees a reset."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    except OSError:
        pass  # the connection is closed already
