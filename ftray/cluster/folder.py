"""The folder that a Ray started by ftray keeps its sockets, logs and spilled objects in."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ftray.errors import RunFailed

# As Ray names its longest socket below the folder; the number of a process has at most 7 digits.
_SOCKET = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
# The size of sun_path in <sys/un.h>, less the byte that ends the path.
_LONGEST = 103 if sys.platform == "darwin" else 107
_PROBE = b"ftray" * (1 << 18)
"""Ray writes some MB of logs before anything runs."""


def ray_folder() -> Path:
    """Where Ray starts: `ray` below $RAY_TMPDIR, on Linux else below $TMPDIR, else below /tmp."""
    named = os.environ.get("RAY_TMPDIR")
    if named is None and sys.platform.startswith("linux"):
        named = os.environ.get("TMPDIR")
    return Path("/tmp" if named is None else named, "ray")


def check_ray_folder() -> None:
    """Raise RunFailed where no Ray can start there. Leaves nothing behind."""
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
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(_PROBE)
            file.flush()
    except OSError as error:
        problem = f"Ray cannot write there: {error.strerror or error}"
        raise RunFailed.of(_key(), str(folder), problem, fix) from None


def _key() -> str:
    """What the folder was named by."""
    return next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "RAY_TMPDIR")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
