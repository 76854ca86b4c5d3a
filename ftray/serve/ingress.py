"""How requests reach the replicas: through HAProxy, which comes with Ray Serve, straight to their
own HTTP servers. Ray's other proxy, in Python, takes more time for a request than a small model.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLIENT_S = 75
"""After so long without a byte a connection is closed."""


@contextmanager
def fast_ingress() -> Iterator[None]:
    """Set what Ray Serve reads from the environment when it is imported or started; a user's own
    setting wins. To be entered before Ray starts on this machine: a cluster has its own."""
    with tempfile.TemporaryDirectory(prefix="ftray-") as name:
        folder = Path(name)  # for this user alone: who reaches the socket commands the proxy
        settings = {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            # HAProxy hears at once which replica goes; Ray would wait for slower balancers.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            # A proxy that died is noticed after three of these.
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
            "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_CLIENT_S),
            # A prediction changes nothing: a request whose replica died goes to another one.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
            "RAY_SERVE_HAPROXY_RETRIES": "3",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": name,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_METRICS_PORT": _free_port(),
            "RAY_SERVE_HAPROXY_STATS_PORT": _free_port(),
        }
        for key, value in settings.items():
            os.environ.setdefault(key, value)
        yield


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
