"""Runs actors in turns, in an order drawn from a seed.

The actors' accesses to the storage and the registry interleave.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from ftray.store.deployments import route_file
from ftray.store.files.conditional import Version
from ftray.store.files.document import Document
from ftray.store.files.location import Location
from ftray.store.registry.registry import Registry


class Killed(BaseException):
    """Ends an actor at once, wherever it is."""


class _Actor:
    def __init__(self, work: Callable[[], None]) -> None:
        self.work, self.error = work, None
        self.killed = self.done = False
        self.turn, self.paused = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def go_on(self) -> None:
        """Lets the actor run until it pauses or ends."""
        self.turn.release()
        self.paused.acquire()

    def pause(self) -> None:
        self.paused.release()
        self.turn.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        _OWN.actor = self
        self.turn.acquire()
        try:
            self.work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - interleave raises it again
            self.error = error
        self.done = True
        self.paused.release()


_OWN = threading.local()


def interleave(chance: random.Random, works: Sequence[Callable[[], None]], kills: int = 0) -> None:
    """Runs all of `works` interleaved, and kills `kills` of them at a random access.

    Raises what one of them raises.
    """
    actors = [_Actor(work) for work in works]
    doomed = dict.fromkeys(chance.sample(actors, kills))
    lives = {actor: chance.randrange(1, 8) for actor in doomed}
    while running := [actor for actor in actors if not actor.done]:
        actor = chance.choice(running)
        if actor in lives:
            lives[actor] -= 1
            actor.killed = lives[actor] <= 0
        actor.go_on()
    for actor in actors:
        if actor.error is not None:
            raise actor.error


@contextmanager
def taking_turns() -> Iterator[None]:
    """Makes actors of `interleave` take turns before each access to a route or the registry.

    Other threads run on.
    """
    plain = route_file.open_document

    class Turning:
        def __init__(self, document: Document) -> None:
            self._document = document

        def read(self) -> Version:
            _turn()
            return self._document.read()

        def write(self, content: bytes, after: Version) -> Version | None:
            _turn()
            return self._document.write(content, after)

    def opened(location: Location) -> Document:
        return Turning(plain(location))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route_file, "open_document", opened)
        for name in ("point", "versions"):
            patch.setattr(Registry, name, _turning(getattr(Registry, name)))
        yield


def _turning(method: Callable[..., object]) -> Callable[..., object]:
    def turned(*arguments: object) -> object:
        _turn()
        return method(*arguments)

    return turned


def _turn() -> None:
    actor = getattr(_OWN, "actor", None)
    if actor is not None:
        actor.pause()
