"""The connection to the Ray cluster: starts Ray or connects to a running cluster."""

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
"""Part of Ray's message when one of Ray's processes has not started in time."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class Resources:
    """The resources that one process needs."""

    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus:g} CPU{gpus}"

    def bundle(self) -> dict[str, float]:
        """Return the resources in the form of a Ray bundle."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def configure() -> None:
    """Set the environment variables that Ray reads when it is imported or started. A user's own
    setting takes precedence."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Seconds between Ray Train's checks whether its workers are done; Ray's default is 2 s.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # The watcher is one actor a run, which learns of no preemption on a cluster of one machine.
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray Tune would write files in three formats a trial; ftray keeps a sweep in its run folder.
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
    """Start Ray on this machine, inside this process, with options of `ray.init`; return the result
    of `ray.init`.

    Ray waits 30 s for its own start, which is too short on a busy machine. In that case this
    function tries a second time.
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
    except Exception as error:  # Ray raises no class of its own when one of its processes fails
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
    """Start Ray in the block without the processes that only observers need.

    These are the dashboard (which Ray starts, and waits for, even where it is switched off), the
    autoscaler's monitor, and the process that forwards logs. Each is a Python process that imports
    Ray; together they take half of the start-up time. Ray has no option that leaves them out."""
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
    """Raise OSError when no process listens at HOST:PORT; Ray itself would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK_S).close()


@contextmanager
def session(*ahead: str, watched: bool = False) -> Iterator[None]:
    """Connect to Ray inside the block. A Ray that this function starts ends with the block.

    `ahead`: modules that the block needs; a thread imports them while Ray starts. `watched`:
    whether a Ray that this function starts gets its dashboard, monitor and log forwarder.

    Inside the block stdout goes nowhere: Ray prints its internal errors there, even those that it
    recovers from, and stdout belongs to the caller's result. Errors that concern the caller are
    raised.
    """
    with starting(*ahead, watched=watched) as connected:
        connected()
        yield


@contextmanager
def starting(
    *ahead: str, watched: bool = False, then: Callable[[], T | None] = lambda: None
) -> Iterator[Callable[[], T | None]]:
    """Connect as `session`, but begin the block at once.

    The block gets a function that waits until another thread has connected to Ray and called
    `then`. The function returns the result of `then`, or raises the error of that thread."""
    # A real file: libraries such as MLflow print at the end of a run, and fail without a stdout.
    with Path(os.devnull).open("w") as sink, redirect_stdout(sink):
        starter = _Starter(watched, then)
        starter.start()
        importer = threading.Thread(target=_import, args=ahead, daemon=True)
        importer.start()

        def wait() -> T | None:
            found = starter.wait()
            # Two threads that import transformers at once find a half-imported module.
            while importer.is_alive():
                importer.join(_LOOK_S)
            return found

        try:
            yield wait
        finally:
            starter.stop()


class _Starter(threading.Thread, Generic[T]):
    """The thread that connects to Ray. The thread lives as long as the session, as the kernel ends
    the processes of a Ray when the thread that started them ends."""

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
        except BaseException as error:  # noqa: BLE001 - `wait` raises it in the waiting thread
            self._error = error
        self._connected.set()
        self._over.wait()
        if self._owns and ray.is_initialized():
            ray.shutdown()

    def wait(self) -> T | None:
        """Wait until the thread is connected, and return the result of `then`. Raises the error of
        the thread."""
        while not self._connected.wait(_LOOK_S):
            pass  # Python handles signals between two waits
        if self._error is not None:
            raise self._error
        return self._found

    def stop(self) -> None:
        """Disconnect. Does not wait for a Ray that still starts: that Ray ends by itself, or with
        the process."""
        self._over.set()
        if self._connected.is_set():
            self.join()


def _import(*names: str) -> None:
    with suppress(Exception):  # the code that needs the module raises the error again
        for name in names:
            importlib.import_module(name)


def is_this_machine() -> bool:
    """Return whether the cluster has only one node, the one that runs this process."""
    import ray

    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return alive == [ray.get_runtime_context().get_node_id()]


def is_own() -> bool:
    """Return whether this process has started its Ray for itself alone."""
    return os.environ.get("RAY_ADDRESS", "local") == "local" and is_this_machine()


@dataclass(frozen=True)
class Node:
    """Resources of a live node; memory in bytes, for processes and for Ray's object store."""

    address: str
    cpus: float
    gpus: float
    memory: int


def nodes() -> list[Node]:
    """List the live nodes with CPUs."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            memory = int(has.get("memory", 0) + has.get("object_store_memory", 0))
            found.append(Node(node["NodeManagerAddress"], has["CPU"], has.get("GPU", 0), memory))
    return found
