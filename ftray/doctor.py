"""Examines this machine and the cluster: what works, what is missing, and what that costs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from rich.filesize import decimal as file_size

from ftray.cluster import connection as cluster
from ftray.cluster import machine
from ftray.cluster.device import own_device, visible_gpus
from ftray.cluster.folder import check_ray_folder, ray_folder
from ftray.errors import FtrayError, without_passwords
from ftray.spec.sections.training import TrainSpec
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root

_LITTLE = 2_000_000_000
"""Free bytes below which a disk is likely to fill up during a run."""


@dataclass(frozen=True)
class Finding:
    """One result of the examination. missing: some feature fails or is slow; broken: hardly any
    feature works."""

    what: str
    state: Literal["ok", "missing", "broken"]
    value: str
    cost: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def examine(storage: str | None) -> list[Finding]:
    """Return all findings; leaves no files behind. `storage`: as in `open_root`."""
    parts: list[Callable[[], Iterator[Finding]]] = [
        _python, _torch, _training, _machine, _tools, lambda: _store(storage), _cluster,
    ]  # fmt: skip
    return [finding for part in parts for finding in part()]


def _python() -> Iterator[Finding]:
    yield Finding("Python", "ok", platform.python_version())


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "broken", str(error), "nothing trains and nothing is served")
        return
    yield Finding("torch", "ok", torch.__version__)
    for number in range(visible_gpus()):
        device = torch.cuda.get_device_properties(number)
        yield Finding(f"GPU {number}", "ok", f"{device.name}, {file_size(device.total_memory)}")
    if not visible_gpus():
        cuda = torch.version.cuda
        built = f"torch is built for CUDA {cuda}" if cuda else "torch is built without CUDA"
        yield Finding("GPU", "missing", f"none found; {built}", "training is on CPUs")


def _training() -> Iterator[Finding]:
    try:
        found = version("deepspeed")
    except PackageNotFoundError:
        cost = "no training here: pip install 'ftray[train]'"
        yield Finding("DeepSpeed", "missing", "not installed", cost)
        return
    yield Finding("DeepSpeed", "ok", found)
    from ftray.train.distributed.context import DistContext
    from ftray.train.engine.deepspeed import wants_autocast

    device = own_device()
    if wants_autocast(TrainSpec(), DistContext(0, 1, device)):
        yield Finding("bf16", "ok", f"in the hardware ({device.type})")
    else:
        cost = "train.precision: auto is fp32, in about twice the memory and time"
        yield Finding("bf16", "missing", f"not in the hardware ({device.type})", cost)


def _machine() -> Iterator[Finding]:
    yield Finding("memory", "ok", file_size(machine.memory()))
    yield Finding("cores", "ok", str(machine.cores()))
    for folder, cost in (
        (str(ray_folder().parent), "Ray's logs and spilled objects have no room"),
        ("/dev/shm", "Ray keeps objects on disk instead, which is slow"),
    ):
        room = machine.room(folder)
        if room is None:
            yield Finding(folder, "missing", "no such folder", cost)
        else:
            state: Literal["ok", "missing"] = "ok" if room >= _LITTLE else "missing"
            yield Finding(folder, state, f"{file_size(room)} free", "" if state == "ok" else cost)


def _tools() -> Iterator[Finding]:
    compiler = shutil.which("g++")
    cost = "operators of DeepSpeed's own are not compiled; ftray needs one for offload: nvme alone"
    yield (
        Finding("compiler", "ok", compiler)
        if compiler
        else Finding("compiler", "missing", "no g++", cost)
    )
    if machine.has_libaio():
        yield Finding("libaio", "ok", "found")
    else:
        cost = "no train.deepspeed.offload: nvme; apt-get install libaio-dev"
        yield Finding("libaio", "missing", "not found", cost)


def _store(storage: str | None) -> Iterator[Finding]:
    try:
        root = open_root(storage)
        root.check_writable()
    except FtrayError as error:
        yield Finding("storage", "broken", str(error), "nothing can be kept")
        return
    yield Finding("storage", "ok", f"{root} can be written")
    try:
        Registry(root).check()
    except FtrayError as error:
        yield Finding("MLflow", "broken", str(error), "no model is registered or found by name")
        return
    server = os.environ.get("MLFLOW_TRACKING_URI")
    yield Finding(
        "MLflow",
        "ok",
        f"{without_passwords(server)} answers" if server else "SQLite in the storage root",
    )


def _cluster() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    if address is None or address == "local":
        try:
            check_ray_folder()
        except FtrayError as error:
            yield Finding("Ray", "broken", str(error), "no Ray starts on this machine")
            return
        yield Finding("Ray", "ok", f"{version('ray')}, started here when it is needed")
        return
    try:
        with cluster.session():
            nodes = cluster.nodes()
    except FtrayError as error:
        yield Finding("Ray", "broken", str(error), "nothing runs until the cluster answers")
        return
    yield Finding("Ray", "ok", f"{version('ray')}, {len(nodes)} nodes at {address}")
    for node in nodes:
        has = f"{node.cpus:g} CPUs, {node.gpus:g} GPUs, {file_size(node.memory)}"
        yield Finding(f"node {node.address}", "ok", has)
