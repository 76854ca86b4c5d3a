"""Which node of the cluster a process runs on, and errors that name it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ftray.cluster import connection as cluster
from ftray.errors import FtrayError


def this_node() -> str:
    """Address, host name and the first digits of Ray's id of the node that this process runs on."""
    import ray

    node = ray.get_runtime_context().get_node_id()[:8]
    return f"node {ray.util.get_node_ip_address()}, host {socket.gethostname()}, id {node}"


@contextmanager
def naming_this_node() -> Iterator[None]:
    """An FtrayError of the block, raised on a cluster of several nodes, says on which one."""
    try:
        yield
    except FtrayError as error:
        import ray

        if not ray.is_initialized() or cluster.is_this_machine():
            raise
        raise at(this_node(), error) from None


def at(place: str, error: FtrayError) -> FtrayError:
    """`error` with the place in each of its problems."""
    return type(error)(*(replace(p, problem=f"on {place}: {p.problem}") for p in error.problems))
