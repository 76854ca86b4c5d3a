"""Events that workers send to the driver during training: the start or resumption, steps, epochs.

An event is a dictionary with a "kind", such as "stage" (the current stage of work). The driver
shows but does not record the kinds "note" (a line for the user) and "stopping" (a worker has
learned that it should save and stop).
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

PASSING = frozenset({"note", "stopping"})
"""Kinds of events that the driver does not record."""

_SEND_EVERY_S = 0.3
_POLL_EVERY_S = 0.3


def stage(name: str) -> Event:
    """Return the event for the stage of work that begins now."""
    return {"kind": "stage", "name": name}


def note(line: str) -> Event:
    """Return the event for a line to the user."""
    return {"kind": "note", "message": line}


@ray.remote(num_cpus=0)
class _Mailbox:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stopping = self.heard = False

    def put(self, events: list[Event]) -> bool:
        """Store `events`; returns whether the sender should stop."""
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
    """The workers' end of the mailbox: sends events a few times a second without waiting."""

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
        """Send all pending events, and wait until the mailbox has received them."""
        ray.get(self._mailbox.put.remote(self._pending))
        self._pending = []

    def alarm(self, event: Event) -> None:
        """Send one event at once; safe to call from another thread than the one that calls `send`,
        as this method does not touch the pending events."""
        self._mailbox.put.remote([event])

    def stopping(self) -> bool:
        """Return whether the driver asked to stop, according to the mailbox's last answer. This
        method does not wait for a new answer."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping = self._stopping or ray.get(self._answer)
            self._answer = None
        return self._stopping

    def stop(self) -> None:
        """Ask the workers to save and stop. The driver calls this method."""
        self._mailbox.stop.remote()


@contextmanager
def listening(listener: Listener) -> Iterator[Sender]:
    """Yield a Sender, and pass each event sent inside the block to `listener` in a second thread.

    An exception of the listener is raised at the end of the block.
    """
    # Place the mailbox on the driver's node: the run survives the loss of any other node.
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
