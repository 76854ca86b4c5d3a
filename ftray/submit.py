"""Submits a verb as a Ray job, with all local files that the verb needs."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from ftray.cluster import environment
from ftray.errors import ClusterError, DataError
from ftray.spec.load import dump
from ftray.spec.schema import Spec
from ftray.store.files.pattern import expand

_LARGEST_MIB = 100  # Ray refuses larger packages
_INPUTS = ("model.name_or_path", "data.train", "data.validation", "data.test", "train.deepspeed")
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_ASK = (
    "give the address of the cluster's dashboard, such as --address http://HEAD:8265, or set "
    f"{_ADDRESSES[0]}"
)


def submit_job(
    verb: str, spec: Spec, as_json: bool, address: str | None, say: Callable[[str], None]
) -> int:
    """Submit `ftray VERB` with `spec`, print its log, and return its exit code. address: the
    address of the Jobs API, else the one that the environment names. A Ray that merely runs on this
    machine is not used.

    Raises ClusterError when no address is named or no API answers, DataError when the inputs are
    too large to send.
    """
    address = address or next(filter(None, map(os.environ.get, _ADDRESSES)), None)
    if address is None:
        raise ClusterError.of("--address", None, "no cluster is named", _ASK)
    arguments = [verb, "spec.yaml", *(["--json"] if as_json else [])]
    with tempfile.TemporaryDirectory(prefix="ftray-job-") as temporary:
        folder = Path(temporary)
        package(spec, folder)
        environment.pack(folder)
        with _reachable(address):
            client = JobSubmissionClient(address)
            job = client.submit_job(
                entrypoint=f"python -m ftray.job {' '.join(arguments)}",
                runtime_env={"working_dir": str(folder)},
                metadata={"ftray": spec.name},
            )
    say(f"job {job}; if this command is interrupted it goes on: ray job logs --follow {job}")
    asyncio.run(_follow(client, job))
    info = client.get_job_info(job)
    if info.driver_exit_code is None:
        say(f"job {job}: {info.status}: {info.message}")
        return 1
    return info.driver_exit_code


def package(spec: Spec, folder: Path) -> None:
    """Write into `folder` the spec, ftray itself, and the local files that the spec names.

    Raises DataError when they are too large for a job.
    """
    source = Path(__file__).parent
    shutil.copytree(source, folder / "ftray", ignore=shutil.ignore_patterns("__pycache__"))
    tree: Any = spec.model_dump(mode="json")
    for key in _INPUTS:
        section, name = key.split(".")
        value = tree[section][name]
        if isinstance(value, str) and "://" not in value:
            tree[section][name] = _carry(value, folder / "inputs" / name) or value
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    if size > _LARGEST_MIB:
        raise DataError.of(
            "inputs",
            f"{size:.0f} MiB",
            f"a job takes at most {_LARGEST_MIB} MiB of local files",
            "put model and data where all nodes see them and name them by URL or absolute path",
        )
    (folder / "spec.yaml").write_text(dump(Spec.model_validate(tree)), encoding="utf-8")


def _carry(value: str, target: Path) -> str | None:
    """Copy the local files that `value` names below `target`, and return their name in the package.
    Return None where no such file is here (a Hub id, or a path of the cluster)."""
    found = [Path(location.path) for location in expand(value) if location.exists()]
    if not found:
        return None
    target.mkdir(parents=True)
    is_pattern = found != [Path(value).expanduser().absolute()]
    for number, path in enumerate(found):
        # A pattern may match files of one name in several folders; the number also keeps their
        # order.
        copy = target / (f"{number:05d}-{path.name}" if is_pattern else path.name)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy2(path, copy)
    return f"inputs/{target.name}/{'*' if is_pattern else found[0].name}"


@contextmanager
def _reachable(address: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ClusterError.of(
            "--address",
            address,
            f"no Jobs API takes the job: {str(error).splitlines()[0]}",
            "give the dashboard's address, such as http://HEAD:8265; with token authentication set "
            "RAY_AUTH_MODE=token",
        ) from None


async def _follow(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)
        sys.stdout.flush()
