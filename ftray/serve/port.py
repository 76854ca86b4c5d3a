"""Whether this machine can listen on a port: asked before anything is started."""

from __future__ import annotations

import errno
import socket

from ftray.errors import ServeError


def check_port(host: str, port: int) -> None:
    """Raises ServeError when this machine cannot listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As the proxy does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise ServeError.of(
            "--host", host, f"no such address: {error.strerror}", "127.0.0.1, or 0.0.0.0 for all"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fix = "stop what listens there, or name another port with --port"
            raise ServeError.of("--port", port, f"in use on {host}", fix) from None
        raise ServeError.of(
            "--port", port, f"cannot listen on {host}: {error.strerror}", "name another one"
        ) from None
