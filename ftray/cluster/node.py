"""The node of the cluster on which a process runs, and errors that name the node."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ftray.cluster import connection as cluster
from ftray.errors import FtrayError


def this_node() -> str:
    """Describe the node of this process: address, host name and the first digits of Ray's node
    id."""
    import ray

    node = ray.get_runtime_context().get_node_id()[:8]
    return f"node {ray.util.get_node_ip_address()}, host {socket.gethostname()}, id {node}"


@contextmanager
def naming_this_node() -> Iterator[None]:
    """Add this node to each FtrayError of the block, where the cluster has several nodes."""
    try:
        yield
    except FtrayError as error:
        import ray

        if not ray.is_initialized() or cluster.is_this_machine():
            raise
        raise at(this_node(), error) from None


def at(place: str, error: FtrayError) -> FtrayError:
    """Return `error` with the place in each of its problems."""
    return type(error)(*(replace(p, problem=f"on {place}: {p.problem}") for p in error.problems))
