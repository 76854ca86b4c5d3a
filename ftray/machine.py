"""What this machine has: memory, cores, room on its disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CGROUP = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def memory() -> int:
    """Bytes of memory that processes here may take together: the machine's, or its container's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(name).read_text().strip() for name in _CGROUP if Path(name).is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(folder: str) -> int | None:
    """Free bytes in `folder`; None where there is no such folder."""
    return shutil.disk_usage(folder).free if Path(folder).is_dir() else None
