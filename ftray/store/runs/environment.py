"""The file environment.json of a run: where, with what and by which command it was started."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel

from ftray.cluster.machine import cores, memory
from ftray.errors import without_passwords
from ftray.store.files.location import Location

FILE = "environment.json"
_PACKAGES = (
    "ftray",
    "torch",
    "transformers",
    "deepspeed",
    "ray",
    "peft",
    "tokenizers",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "optuna",
    "mlflow",
)
_PATIENCE_S = 5.0
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class Environment(BaseModel):
    """command: as typed in a shell, without passwords; job: the submission id of the Ray job that
    is the driver; folder: the working directory; git: the commit of the repository around it, empty
    outside of one; dirty: whether files differed from this commit; memory: bytes of the driver's
    machine; packages: name -> version."""

    command: str = ""
    user: str = ""
    host: str = ""
    job: str = ""
    folder: str = ""
    git: str = ""
    dirty: bool = False
    python: str = ""
    system: str = ""
    processor: str = ""
    cores: int = 0
    memory: int = 0
    packages: dict[str, str] = {}

    @classmethod
    def current(cls) -> Environment:
        """Describe this process."""
        return cls(
            command=_command(),
            user=_user(),
            host=socket.gethostname(),
            job=_job(),
            folder=str(Path.cwd()),
            git=_git("rev-parse", "HEAD"),
            dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
            python=platform.python_version(),
            system=f"{platform.system()} {platform.release()}",
            processor=_processor(),
            cores=cores(),
            memory=memory(),
            packages=dict(_versions()),
        )


def read_environment(folder: Location) -> Environment:
    """Read the file in a run's folder; an empty description where there is none."""
    file = folder / FILE
    return Environment(**file.read_json()) if file.is_file() else Environment()


def _command() -> str:
    first, *rest = sys.argv
    name = Path(first).name
    program = ["ftray"] if name in ("ftray", "__main__.py") else ["python", first]
    return shlex.join([*program, *map(without_passwords, rest)])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""  # a container whose user has no name


def _job() -> str:
    try:
        config = json.loads(os.environ.get(_JOB, "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, TypeError, KeyError):
        return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if not done.returncode else ""


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())
