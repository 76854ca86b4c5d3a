"""Lets several ranks write one checkpoint: each rank writes the tensors that it keeps.

A rank that has written its files leaves a list of them in the checkpoint's folder. Rank 0 waits for
the lists of all ranks, and then writes the manifest, which makes the checkpoint exist.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass

from ftray.errors import StorageFault
from ftray.store.files.location import Location
from ftray.train.distributed.context import DistContext

Files = dict[str, str]
"""File name -> checksum."""
_WAIT_S, _POLL_S = 600.0, 0.1


@dataclass(frozen=True)
class Parts:
    """The part of this rank, and how many there are. attempt: the same on all ranks of a process
    group and in no other group, as an earlier group may have left lists."""

    part: int = 0
    count: int = 1
    attempt: str = ""

    @classmethod
    def of(cls, ranks: DistContext) -> Parts:
        """Every rank must call this method."""
        return cls(ranks.rank, ranks.world, ranks.gather(secrets.token_hex(4))[0])

    @property
    def suffix(self) -> str:
        """The ending of file names that tells this part's files from the others'."""
        return f"-{self.part:05d}" if self.part else ""

    def leave(self, folder: Location, number: int, files: Files) -> None:
        """Tell rank 0 the files of this part of the checkpoint `number`."""
        (folder / self._name(self.part, number)).write_json(files)

    def leaves(self, name: str) -> bool:
        """Return whether a file of this name is a list that a rank of this group left, or is
        just writing under a temporary name."""
        return name.lstrip(".").startswith("part-") and f"-{self.attempt}-" in name

    def gathered(
        self, folder: Location, number: int, files: Files, ended: threading.Event
    ) -> Files:
        """Return `files`, those of this part, and the files of all others; waits for them, until
        `ended` is set. Raises StorageFault."""
        found, end = dict(files), time.monotonic() + _WAIT_S
        for part in range(1, self.count):
            told = folder / self._name(part, number)
            while not told.is_file():
                if time.monotonic() > end or ended.wait(_POLL_S):
                    fix = "the same command goes on from the last checkpoint"
                    raise StorageFault.of(
                        folder.url, None, f"rank {part} did not write its part", fix
                    )
            found |= told.read_json()
            told.delete()
        return found

    def _name(self, part: int, number: int) -> str:
        return f"part-{part:05d}-{self.attempt}-{number}.json"


WHOLE = Parts()
"""One rank writes all."""
