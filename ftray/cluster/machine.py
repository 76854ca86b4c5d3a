"""The resources of this machine: memory, cores, disk space, libraries for DeepSpeed."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from ctypes.util import find_library
from pathlib import Path

_CGROUP = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def memory() -> int:
    """Return the bytes of memory for all processes here: the machine's, or its container's
    limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(name).read_text().strip() for name in _CGROUP if Path(name).is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def free_memory() -> int:
    """Return the bytes of memory that processes here may still allocate; the page cache counts as
    free."""
    meminfo = _fields(Path("/proc/meminfo"))
    free = meminfo["MemAvailable:"] << 10 if "MemAvailable:" in meminfo else memory()
    used = Path("/sys/fs/cgroup/memory.current")
    if used.is_file():
        files = _fields(used.with_name("memory.stat")).get("inactive_file", 0)
        free = min(free, memory() - int(used.read_text()) + files)
    return max(0, free)


def _fields(file: Path) -> dict[str, int]:
    """Map the first word of each line of `file` to the line's first number."""
    lines = map(str.split, file.read_text().splitlines()) if file.is_file() else ()
    return {words[0]: int(words[1]) for words in lines}


def cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(folder: str) -> int | None:
    """Return the free bytes in `folder`; None where there is no such folder."""
    return shutil.disk_usage(folder).free if Path(folder).is_dir() else None


def forget_peak_memory() -> None:
    """Reset the peak memory of this process. Where the system does not allow a reset, `peak_memory`
    covers the whole life of the process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Return the most bytes of memory that this process held; None where the system does not
    tell."""
    return _of_this_process("VmHWM")


def held_memory() -> int | None:
    """Return the bytes of memory that this process holds; None where the system does not tell."""
    return _of_this_process("VmRSS")


def _of_this_process(name: str) -> int | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")]
    return found[0] if found else None


def lacks_for_nvme() -> list[str]:
    """List what DeepSpeed needs to swap to a disk and does not find here: DeepSpeed compiles the
    operator for that at its first use."""
    lacking = [] if has_libaio() else ["libaio"]
    return lacking if shutil.which("g++") else [*lacking, "g++"]


def has_libaio() -> bool:
    """Return whether libaio and its header are installed, to compile against."""
    headers = (Path("/usr/include/libaio.h"), Path("/usr/local/include/libaio.h"))
    return any(header.is_file() for header in headers) and bool(find_library("aio"))
