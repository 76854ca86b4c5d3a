"""The process that owns a run, and whether that process still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ftray.store.files.document import Frozen

LEASE_S = 60.0
"""Seconds without a sign of life after which a process on another machine counts as dead."""
BEAT_S = 10.0
"""Seconds between two signs of life."""


class Owner(Frozen):
    """A process: its host, its pid, and a mark that tells it from a later process of the same pid.

    The mark `process` is MACHINE/START. MACHINE names the boot and the pid namespace in which the
    pid is valid, as two containers can share a host name. START is the time at which the process
    began, in the kernel's clock ticks. `process` is empty where there is no /proc.
    """

    host: str
    pid: int
    process: str

    @staticmethod
    def current() -> Owner:
        pid = os.getpid()
        machine = _machine()
        process = f"{machine}/{_start(pid)}" if machine else ""
        return Owner(host=socket.gethostname(), pid=pid, process=process)

    def alive(self) -> bool | None:
        """Return whether the process lives; None where this process cannot see that, as the other
        runs on another machine or in another container."""
        machine, _, start = self.process.rpartition("/")
        if machine and machine == _machine():
            return _start(self.pid) == start
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """Return the start of a live process in clock ticks since the boot; empty for one that
    ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field is the command in parentheses, which may contain any character.
    values = stat.rpartition(")")[2].split()
    state, start = values[0], values[19]
    return "" if state in "ZX" else start
