"""Ends all ranks with one joint error when some of them fail.

When a single rank fails, the other ranks would wait for it in their next collective operation. So
the failed rank writes its reason to the store that all ranks share, waits a moment for failures of
other ranks there, and raises one error for all failed ranks. Ray Train ends the whole group as soon
as one rank raises.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch.distributed as dist
from torch.distributed import distributed_c10d

from ftray.cluster import connection as cluster
from ftray.cluster.node import at, this_node
from ftray.errors import FtrayError, Interrupted, Problem, from_json
from ftray.train.distributed.faults import translated

_GRACE_S = 3.0
"""Seconds that a failed rank waits for the outcomes of the other ranks."""
_POLL_S = 0.05
_SHOWN = 4
_KEY = "ftray-outcome"


@dataclass(frozen=True)
class Failure:
    """The failure of one rank. place: the rank and its node; error: None where the user cannot fix
    the problem."""

    place: str
    error: FtrayError | None

    def to_text(self) -> str:
        error = None if self.error is None else self.error.to_json()
        return json.dumps({"place": self.place, "error": error})

    @classmethod
    def from_text(cls, text: str) -> Self:
        told = json.loads(text)
        return cls(told["place"], told["error"] and from_json(told["error"]))


@contextmanager
def told_to_all_ranks() -> Iterator[None]:
    """Wrap all work of a rank of torch's default group, and share the rank's outcome with the
    others.

    An FtrayError of the block becomes a joint error that names the failed ranks and their nodes;
    all failed ranks raise the same one. Interrupted passes unchanged, since all ranks raise it. Any
    other exception passes with a note of its rank and node.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    # torch has no public name for its default store, the only store that all ranks share.
    board = Board(distributed_c10d._get_default_store(), rank, world)  # noqa: SLF001
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        known, place = translated(error), f"rank {rank} ({this_node()})"
        failures = board.fail(Failure(place, known))
        if known is None:
            error.add_note(f"raised on {place}")
            raise
        whole = len(failures) == world and cluster.is_this_machine()
        raise joint(failures, named=not whole) from error
    board.end()


class Board:
    """The outcomes of `world` ranks, kept in their shared store."""

    def __init__(self, store: dist.Store, rank: int, world: int, grace_s: float = _GRACE_S) -> None:
        self._store = store
        self._rank = rank
        self._world = world
        self._grace_s = grace_s

    def end(self) -> None:
        """Record that this rank ended without an error."""
        self._store.set(self._key(self._rank), "")

    def fail(self, failure: Failure) -> dict[int, Failure]:
        """Record that this rank failed; returns all failures by rank that are recorded until every
        rank has ended or `grace_s` is over."""
        failures = {self._rank: failure}
        try:
            self._store.set(self._key(self._rank), failure.to_text())
            for rank, told in self._outcomes():
                if told:
                    failures[rank] = Failure.from_text(told.decode())
        except dist.DistError:
            pass  # the rank that hosts the store is gone: return the failures known so far
        return dict(sorted(failures.items()))

    def _outcomes(self) -> Iterator[tuple[int, bytes]]:
        deadline = time.monotonic() + self._grace_s
        open_ranks = set(range(self._world)) - {self._rank}
        while open_ranks:
            for rank in sorted(open_ranks):
                if self._store.check([self._key(rank)]):
                    open_ranks.discard(rank)
                    yield rank, self._store.get(self._key(rank))
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)

    @staticmethod
    def _key(rank: int) -> str:
        return f"{_KEY}-{rank}"


def joint(failures: Mapping[int, Failure], named: bool = True) -> FtrayError:
    """Join the FtrayErrors of several ranks into one error with the type of the lowest rank's
    error. A problem that several ranks met appears once. named: each problem names its ranks."""
    known = [(f.place, f.error) for f in failures.values() if f.error is not None]
    places: dict[Problem, list[str]] = {}
    for place, error in known:
        for problem in error.problems:
            places.setdefault(problem, []).append(place)
    kind = type(known[0][1])
    if not named:
        return kind(*places)
    located = (at(_listed(where), kind(problem)) for problem, where in places.items())
    return kind(*(problem for error in located for problem in error.problems))


def _listed(places: list[str]) -> str:
    shown = ", ".join(places[:_SHOWN])
    more = len(places) - _SHOWN
    return f"{shown} and {more} more ranks" if more > 0 else shown
