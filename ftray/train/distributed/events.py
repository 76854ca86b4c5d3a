"""Events from the workers to the driver while they train: steps, epochs, what was resumed.

Each is a dictionary with a "kind". Of kind "stage" (what goes on now), "note" (a line for the user)
and "stopping" (a worker has heard that it should save and end) nothing is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Event = dict[str, Any]
Listener = Callable[[Event], None]

PASSING = frozenset({"stage", "note", "stopping"})
"""Kinds of which nothing is kept."""

_SEND_EVERY_S = 0.3
_POLL_EVERY_S = 0.3


def stage(name: str) -> Event:
    """The event that tells what goes on from now on."""
    return {"kind": "stage", "name": name}


def note(line: str) -> Event:
    """The event of a line for the user."""
    return {"kind": "note", "message": line}


@ray.remote(num_cpus=0)
class _Mailbox:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stopping = self.heard = False

    def put(self, events: list[Event]) -> bool:
        """Whether the sender should stop."""
        self.events.extend(events)
        if self.stopping and not self.heard:
            self.heard = True
            self.events.append({"kind": "stopping"})
        return self.stopping

    def stop(self) -> None:
        self.stopping = True

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events


class Sender:
    """The workers' end: events are sent a few times a second, nothing is waited for."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._pending: list[Event] = []
        self._sent = 0.0
        self._answer: Any = None
        self._stopping = False

    def send(self, event: Event, now: bool = False) -> None:
        self._pending.append(event)
        if now or time.monotonic() - self._sent > _SEND_EVERY_S:
            self._answer = self._mailbox.put.remote(self._pending)
            self._pending = []
            self._sent = time.monotonic()

    def flush(self) -> None:
        """Send what is pending, and wait until it has arrived."""
        ray.get(self._mailbox.put.remote(self._pending))
        self._pending = []

    def alarm(self, event: Event) -> None:
        """Send from a thread of its own; what is pending is left to the thread that sends."""
        self._mailbox.put.remote([event])

    def stopping(self) -> bool:
        """Whether the driver asked to stop, as far as is known: nothing is waited for."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping = self._stopping or ray.get(self._answer)
            self._answer = None
        return self._stopping

    def stop(self) -> None:
        """The driver's end: ask the workers to save and stop."""
        self._mailbox.stop.remote()


@contextmanager
def listening(listener: Listener) -> Iterator[Sender]:
    """Call `listener`, in a thread of its own, with each event sent until the block ends.

    An exception of the listener is raised at the end of the block.
    """
    # Where the driver is: the run outlives any other node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = _Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    done = threading.Event()
    failures: list[Exception] = []

    def pump() -> None:
        try:
            while not done.wait(_POLL_EVERY_S):
                _deliver(mailbox, listener)
            _deliver(mailbox, listener)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits below
            failures.append(error)

    thread = threading.Thread(target=pump, name="ftray-events", daemon=True)
    thread.start()
    try:
        yield Sender(mailbox)
    finally:
        done.set()
        thread.join()
        ray.kill(mailbox)
    if failures:
        raise failures[0]


def _deliver(mailbox: Any, listener: Listener) -> None:
    for event in ray.get(mailbox.take.remote()):
        listener(event)
