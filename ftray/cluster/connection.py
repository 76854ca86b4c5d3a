"""The Ray cluster: how ftray connects to it and what fits on it."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ftray.cluster.environment import setup_hook
from ftray.cluster.folder import check_ray_folder, ray_folder
from ftray.errors import ClusterError, RunFailed

T = TypeVar("T")

_KNOCK_S = 5.0
_SLOW = "timed out during startup"
"""What Ray says when a part of it has not started in time."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class Resources:
    """What one process needs."""

    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus:g} CPU{gpus}"

    def bundle(self) -> dict[str, float]:
        """As Ray writes it."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def configure() -> None:
    """Set what Ray reads from the environment when it is imported or started; a user's own setting
    wins."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # How long Ray Train may go without noticing that its workers are done; 2 s unless set.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # An actor for each run, which nothing would be told of on a machine that is all of the cluster.
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Files in three formats for every trial: what ftray keeps of a sweep is in its run folder.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")


def connect(watched: bool = False) -> None:
    """Connect to $RAY_ADDRESS, else start Ray inside this process.

    Raises ClusterError where no cluster answers, RunFailed where Ray does not start here.
    """
    import ray

    if ray.is_initialized():
        return
    configure()
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None or address == "local":
        _start(watched, options)
        return
    try:
        _knock(address)
        hook = setup_hook()
        ray.init(runtime_env={"worker_process_setup_hook": hook} if hook else None, **options)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise ClusterError.of(
            "RAY_ADDRESS",
            address,
            f"no Ray cluster answers: {str(error).splitlines()[0]}",
            "start one with `ray start --head`, or unset RAY_ADDRESS to run on this machine",
        ) from None


def start_ray(**options: Any) -> Any:
    """Start Ray on this machine, inside this process, with options of `ray.init`; gives what that
    gives. Ray waits 30 s for itself, which is too short on a busy machine: then it is tried again.
    """
    import ray

    try:
        return ray.init(address="local", include_dashboard=False, **options)
    except Exception as error:  # Ray raises no class of its own
        if _SLOW not in str(error):
            raise
        ray.shutdown()
        return ray.init(address="local", include_dashboard=False, **options)


def _start(watched: bool, options: dict[str, Any]) -> None:
    """Start Ray inside this process. Raises RunFailed."""
    check_ray_folder()
    try:
        with nullcontext() if watched else _without_onlookers():
            start_ray(**options)
    except Exception as error:  # Ray raises no class of its own when a part of it does not start
        first = str(error).strip().partition("\n")[0]
        raise RunFailed.of(
            "Ray",
            None,
            f"it did not start on this machine: {first}",
            f"see the logs below {ray_folder()}/session_latest/logs; try again where the machine "
            "was busy",
        ) from error


@contextmanager
def _without_onlookers() -> Iterator[None]:
    """A Ray that starts inside goes without what only its onlookers need: the dashboard (without
    which Ray starts it all the same, and waits for it), the autoscaler's monitor and the process
    that forwards logs. Each is a Python process that imports Ray: half of the time of a start. Ray
    has no option for it."""
    from ray._private.node import Node

    names = ("start_api_server", "start_monitor", "start_log_monitor")
    kept = {name: getattr(Node, name) for name in names}
    for name in names:
        setattr(Node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def _knock(address: str) -> None:
    """Raise OSError when nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK_S).close()


@contextmanager
def session(*ahead: str, watched: bool = False) -> Iterator[None]:
    """Connected inside the block; a Ray that was started for it ends with it. `ahead`: modules that
    are needed then, imported while Ray starts. `watched`: whether a Ray that is started for it gets
    its dashboard's process and the like.

    Nothing reaches stdout from inside: Ray tells there what goes wrong within itself, also where
    it mends it, and stdout belongs to the caller's result. What concerns the caller is raised.
    """
    with starting(*ahead, watched=watched) as connected:
        connected()
        yield


@contextmanager
def starting(
    *ahead: str, watched: bool = False, then: Callable[[], T | None] = lambda: None
) -> Iterator[Callable[[], T | None]]:
    """As `session`, but the block begins at once: what it gets waits until Ray is there and `then`
    has been called in another thread, and returns what that returned or raises what went wrong."""
    # A real file: libraries that print, as MLflow does when a run ends, fail where there is none.
    with Path(os.devnull).open("w") as sink, redirect_stdout(sink):
        starter = _Starter(watched, then)
        starter.start()
        importer = threading.Thread(target=_import, args=ahead, daemon=True)
        importer.start()

        def wait() -> T | None:
            found = starter.wait()
            # Two threads that import transformers at once find a half of it.
            while importer.is_alive():
                importer.join(_LOOK_S)
            return found

        try:
            yield wait
        finally:
            starter.stop()


class _Starter(threading.Thread, Generic[T]):
    """Connects, and lives as long as the session: the kernel ends the processes of a Ray when the
    thread that started them ends."""

    def __init__(self, watched: bool, then: Callable[[], T | None]) -> None:
        super().__init__(name="ftray-ray", daemon=True)
        self._then = then
        self._found: T | None = None
        self._watched = watched
        self._connected = threading.Event()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._owns = False

    def run(self) -> None:
        import ray

        try:
            self._owns = not ray.is_initialized()
            connect(self._watched)
            self._found = self._then()
        except BaseException as error:  # noqa: BLE001 - raised by `wait`, in the thread that waits
            self._error = error
        self._connected.set()
        self._over.wait()
        if self._owns and ray.is_initialized():
            ray.shutdown()

    def wait(self) -> T | None:
        """Until it is connected. Raises what kept it from that."""
        while not self._connected.wait(_LOOK_S):
            pass  # signals are handled in between
        if self._error is not None:
            raise self._error
        return self._found

    def stop(self) -> None:
        """Disconnect. What still starts is not waited for: it ends by itself, or with the
        process."""
        self._over.set()
        if self._connected.is_set():
            self.join()


def _import(*names: str) -> None:
    with suppress(Exception):  # raised again where the module is needed
        for name in names:
            importlib.import_module(name)


def is_this_machine() -> bool:
    """Whether the cluster is the node alone that this process runs on."""
    import ray

    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return alive == [ray.get_runtime_context().get_node_id()]


def is_own() -> bool:
    """Whether this process has started the Ray that it is connected to, for itself alone."""
    return os.environ.get("RAY_ADDRESS", "local") == "local" and is_this_machine()


@dataclass(frozen=True)
class Node:
    """What a live node offers; memory in bytes, for processes and for Ray's objects."""

    address: str
    cpus: float
    gpus: float
    memory: int


def nodes() -> list[Node]:
    """The live nodes that run anything."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            memory = int(has.get("memory", 0) + has.get("object_store_memory", 0))
            found.append(Node(node["NodeManagerAddress"], has["CPU"], has.get("GPU", 0), memory))
    return found
