"""Starts Ray Serve, deploys the models, waits until they answer, and ends all of it."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ftray.errors import RunFailed, ServeError
from ftray.serve.app import ENDING_S, app_name, application
from ftray.serve.local.neighbours import end, find_running
from ftray.serve.local.place import HOST, PORT, Place
from ftray.serve.local.ports import check_port
from ftray.serve.ops.log import logging_config
from ftray.serve.settings import ServedModel, Service
from ftray.serve.startup_errors import read_refusal
from ftray.spec.sections.serving import ServeSpec

START_SECONDS = 600.0
"""Seconds that replicas may take to start: a cluster may have to add nodes for them."""
ANSWER_SECONDS = 90.0
"""Seconds that the HTTP proxy may take to answer once the replicas are ready."""
_POLL_SECONDS = 0.1
_HEAD = "node:__internal_head__"

Stopped = Callable[[], bool]


class Stop(Protocol):
    """Tells whether somebody asked the service to stop."""

    at_once: bool
    """Whether answers in progress are not waited for."""

    def is_set(self) -> bool: ...


class Progress(Protocol):
    """Shows a person the progress of the start."""

    def stage(self, name: str) -> None:
        """Show that the stage `name` begins."""
        ...

    def say(self, line: str) -> None: ...


@contextmanager
def endpoint(
    models: Sequence[ServedModel],
    spec: ServeSpec,
    place: Place,
    progress: Progress,
    stop: Stop,
) -> Iterator[str | None]:
    """Yield the URL under which `models` answer inside the block; None when `stop` was set
    first.

    Needs a connection to Ray. Where Serve runs on the cluster already, the application runs beside
    the other applications, and leaves them as they are. Raises ServeError when the cluster's Serve
    has no place for the application or nothing answers under the URL. Also raises the error that
    made a replica refuse to start: a ModelError or RunFailed.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    name, node, running = app_name(models), _head(), find_running()
    if running is None:
        host, port = place.host or HOST, place.port or PORT
        _check_port_of(node, host, port)
    else:
        running.check_room(name, place, isinstance(spec, Service) and spec.loopback)
        host, port = running.host, running.port
    answers = False
    try:
        if running is None:
            progress.stage("starting Ray Serve")
            _start_serve(host, port)
        progress.stage(f"loading {', '.join(model.address for model in models)}")
        _deploy(models, spec, place.prefix)
        runs = _wait_until_running(name, progress.say, stop.is_set)
        url = _url(host, port, node["NodeManagerAddress"]) + place.prefix.rstrip("/")
        answers = runs and _wait_until_answering(url, stop.is_set)
        yield url if answers else None
    finally:
        patience_s = spec.batch.timeout_seconds + 2 * ENDING_S if answers else 0
        end(name, running is None, patience_s, lambda: stop.at_once)


def _head() -> dict:
    return next(node for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"])


def _check_port_of(node: dict, host: str, port: int) -> None:
    """Check the port on the head node, where the proxy will run; the head need not be this
    machine."""
    if node["NodeID"] == ray.get_runtime_context().get_node_id():
        check_port(host, port)
        return
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    check = ray.remote(check_port).options(num_cpus=0, scheduling_strategy=there)
    ray.get(check.remote(host, port))


def _start_serve(host: str, port: int) -> None:
    def start() -> None:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port},
            logging_config=logging_config(requests=False),
        )

    try:
        start()
    except (RayActorError, TimeoutError):
        # Ray gave up on a proxy that was slow to start, and starts another one. Serve runs, and the
        # second call connects to it. `_wait_until_answering` checks last whether a proxy answers.
        start()


def _deploy(models: Sequence[ServedModel], spec: ServeSpec, prefix: str) -> None:
    target = serve.RunTarget(application(models, spec), app_name(models), prefix)
    serve.run_many(
        [target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )


def _wait_until_running(name: str, say: Callable[[str], None], stopped: Stopped) -> bool:
    """Return True once the application runs, False when `stopped`. Raises the error for which a
    replica refused to start, and RunFailed for any other failure."""
    end = time.monotonic() + START_SECONDS
    said = ""
    while not stopped():
        status = serve.status().applications.get(name)
        if status is None:
            time.sleep(_POLL_SECONDS)
            continue
        if status.status == "RUNNING":
            return True
        messages = [deployment.message for deployment in status.deployments.values()]
        message = "\n".join(filter(None, messages)) or status.message
        # Ray Serve starts a failed replica again; a replica that refused to start would refuse
        # again.
        if refused := read_refusal(message):
            raise refused
        if status.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
            raise _failed(name, message)
        if time.monotonic() > end:
            raise _failed(name, f"not ready after {START_SECONDS:g} s. {message}")
        news = message.partition("\n")[0]
        if news and news != said:
            # For example, that the cluster has no free CPU for a replica.
            say(news)
            said = news
        time.sleep(_POLL_SECONDS)
    return False


def _failed(name: str, message: str) -> RunFailed:
    last = message.strip().splitlines()[-1]
    return RunFailed.of(
        name, None, f"no replica came up: {last}", "the logs of Ray Serve on its node say more"
    )


def _url(host: str, port: int, head: str) -> str:
    """Return the URL of a proxy that listens on `host`. head: address of the head node."""
    reached = head if host in {"0.0.0.0", "::"} else host
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _wait_until_answering(url: str, stopped: Stopped) -> bool:
    """Return True once the URL answers, False when `stopped`. Raises ServeError when nothing
    answers in time."""
    # Ignore an HTTP proxy that the environment names: it is for the outside world.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + ANSWER_SECONDS
    while not stopped():
        try:
            with direct.open(f"{url}/healthz", timeout=5):
                return True
        except OSError as error:
            if time.monotonic() > end:
                raise ServeError.of(
                    "--host",
                    url,
                    f"the model is ready and nothing answers there: {error}",
                    "with the cluster's head on another machine, listen on all with --host 0.0.0.0",
                ) from None
        time.sleep(_POLL_SECONDS)
    return False
