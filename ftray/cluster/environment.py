"""Settings of a user's shell that give a run access to storage, to MLflow and to the Hub.

The settings reach the workers of a cluster in a function that Ray keeps under a hash, and a
submitted job in a file of its package. Ray lists the values of neither.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

FILE = ".ftray-environment.json"
"""Name of the settings file in the package of a job."""
_NAMES = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
_PREFIXES = ("AWS_", "MLFLOW_")
# Variables with these parts name a file, a profile or a role of the machine where they are set.
_LOCAL_PREFIXES = ("AWS_CONTAINER_", "AWS_ROLE_")
_LOCAL_SUFFIXES = ("_FILE", "_PATH", "_BUNDLE", "_PROFILE")
_KEY, _SESSION = "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Select the variables of `environment` that travel with a run."""
    return {
        name: value
        for name, value in environment.items()
        if (name in _NAMES or name.startswith(_PREFIXES))
        and not name.startswith(_LOCAL_PREFIXES)
        and not name.endswith(_LOCAL_SUFFIXES)
    }


def setup_hook() -> Callable[[], None] | None:
    """Make a function that gives a worker process the settings of this process; None without
    settings.

    Ray pickles the function by value, as it is defined inside a function. A worker must call it
    before the worker can import ftray.
    """
    found = settings()
    if not found:
        return None
    take = _takes(found)
    take.__name__ = "take_settings"
    return take


def _takes(found: Mapping[str, str]) -> Callable[[], None]:
    file, key, session = FILE, _KEY, _SESSION

    def take() -> None:
        import os
        from pathlib import Path

        if key in found:
            os.environ.pop(session, None)  # a session token that belongs to other keys
        os.environ.update(found)
        Path(file).unlink(missing_ok=True)  # the file in the job's package, unpacked on this node

    return take


def pack(folder: Path) -> None:
    """Write the settings of this process into the package of a job, for `unpack`."""
    # The random number makes each package unique: Ray shares equal packages, and `unpack` deletes
    # the file from its own.
    content = {"settings": settings(), "package": secrets.token_hex(8)}
    file = folder / FILE
    file.touch(mode=0o600)
    file.write_text(json.dumps(content), encoding="utf-8")


def unpack() -> None:
    """Apply the settings from the job's package in the working directory, and delete their file."""
    content = json.loads(Path(FILE).read_text(encoding="utf-8"))
    _takes(content["settings"])()
