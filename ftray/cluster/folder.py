"""The folder in which a Ray started by ftray keeps its sockets, logs and spilled objects."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ftray.errors import RunFailed

# The longest path of Ray's sockets below the folder; a pid has at most 7 digits.
_SOCKET = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
# The size of sun_path in <sys/un.h>, minus the byte that ends the path.
_LONGEST = 103 if sys.platform == "darwin" else 107
_PROBE = b"ftray" * (1 << 18)
"""Bytes of a test write, as Ray writes some MB of logs before it runs any task."""


def ray_folder() -> Path:
    """Return the folder where Ray starts: `ray` below $RAY_TMPDIR, else on Linux below $TMPDIR,
    else below /tmp."""
    named = os.environ.get("RAY_TMPDIR")
    if named is None and sys.platform.startswith("linux"):
        named = os.environ.get("TMPDIR")
    return Path("/tmp" if named is None else named, "ray")


def check_ray_folder() -> None:
    """Raise RunFailed where no Ray can start in its folder. Leaves no files behind."""
    folder = ray_folder()
    fix = "set RAY_TMPDIR to a short path, such as /tmp, with a GB of free space"
    length = len(os.fsencode(folder / _SOCKET))
    if length > _LONGEST:
        problem = (
            f"{length - _LONGEST} characters too long: the paths of Ray's sockets would have "
            f"{length} bytes, of which a system takes {_LONGEST}"
        )
        raise RunFailed.of(_key(), str(folder), problem, fix)
    try:
        with tempfile.TemporaryFile(dir=existing(folder)) as file:
            file.write(_PROBE)
            file.flush()
    except OSError as error:
        problem = f"Ray cannot write there: {error.strerror or error}"
        raise RunFailed.of(_key(), str(folder), problem, fix) from None


def _key() -> str:
    """Return the environment variable that named the folder."""
    return next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "RAY_TMPDIR")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest existing folder above it."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))
