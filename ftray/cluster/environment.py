"""Settings of a user's shell that give a run access to storage, to MLflow and to the Hub.

They travel in two ways, neither of which Ray lists: to the workers of a cluster in a function that
Ray keeps under a hash, to a submitted job in a file of its package.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

FILE = ".ftray-environment.json"
"""In the package of a job."""
_NAMES = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
_PREFIXES = ("AWS_", "MLFLOW_")
# These name a file, a profile or a role of the machine that they are set on.
_LOCAL_PREFIXES = ("AWS_CONTAINER_", "AWS_ROLE_")
_LOCAL_SUFFIXES = ("_FILE", "_PATH", "_BUNDLE", "_PROFILE")
_KEY, _SESSION = "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of `environment` that travel with a run."""
    return {
        name: value
        for name, value in environment.items()
        if (name in _NAMES or name.startswith(_PREFIXES))
        and not name.startswith(_LOCAL_PREFIXES)
        and not name.endswith(_LOCAL_SUFFIXES)
    }


def setup_hook() -> Callable[[], None] | None:
    """A function that gives a worker process the settings of this one; None where there are none.

    Ray pickles it by value, as it is defined in a function: a worker calls it before it can import
    ftray.
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
            os.environ.pop(session, None)  # of other keys
        os.environ.update(found)
        Path(file).unlink(missing_ok=True)  # of the job's package, unpacked on this node

    return take


def pack(folder: Path) -> None:
    """Write the settings of this process into the package of a job, for `unpack`."""
    # The number makes each package another one: Ray shares equal ones, and `unpack` deletes.
    content = {"settings": settings(), "package": secrets.token_hex(8)}
    file = folder / FILE
    file.touch(mode=0o600)
    file.write_text(json.dumps(content), encoding="utf-8")


def unpack() -> None:
    """Take the settings from the package in the working directory, and delete their file."""
    content = json.loads(Path(FILE).read_text(encoding="utf-8"))
    _takes(content["settings"])()
