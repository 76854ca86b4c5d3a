"""Checks whether this machine can listen on a port, and reserves a block of ports for a service."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ftray.errors import ServeError

BLOCK = 256
_BLOCKS = range(20_480, 32_768, BLOCK)
"""First ports of the blocks: above the ports of Ray's workers, and below those that Linux gives to
outgoing connections."""


def check_port(host: str, port: int) -> None:
    """Raises ServeError when this machine cannot listen on this address and port."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # The proxy sets this option, too: a port counts as free while its last connections are
            # still closing.
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


@contextmanager
def port_block() -> Iterator[range]:
    """Reserve a block of BLOCK ports inside the `with`, and yield all ports but the first. This
    process holds the first port, which keeps other services out; the port is free again however
    the process ends. The first three ports of the result are free. Raises ServeError when all
    blocks are taken."""
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        with socket.socket() as held, suppress(_Taken):
            _hold(held, first)
            _require_free(range(first + 1, first + 4))
            yield range(first + 1, first + BLOCK)
            return
    ports = f"{_BLOCKS.start} to {_BLOCKS.stop - 1}"
    raise ServeError.of("ports", ports, "all are taken", "stop another service on this machine")


class _Taken(Exception):
    pass


def _hold(held: socket.socket, port: int) -> None:
    try:
        held.bind(("", port))
    except OSError:
        raise _Taken from None


def _require_free(ports: Sequence[int]) -> None:
    for port in ports:
        with socket.socket() as probe:
            _hold(probe, port)
