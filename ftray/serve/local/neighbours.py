"""Finds a Ray Serve that runs on the cluster already, and keeps out of the way of its other
applications."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeInstanceDetails

from ftray.errors import ServeError
from ftray.serve.http.door import is_loopback
from ftray.serve.local.place import Place

_POLL_S = 0.1


@dataclass(frozen=True)
class Running:
    """Address and applications of the cluster's Ray Serve."""

    host: str
    port: int
    routes: Mapping[str, str | None]
    """Name of an application -> its route prefix."""

    def check_room(self, name: str, place: Place, loopback: bool) -> None:
        """Raises ServeError where an application cannot have this name or this place. With
        `loopback`, also raises where other machines could send requests to the application."""
        for option, given, here in (
            ("--host", place.host, self.host),
            ("--port", place.port, self.port),
        ):
            if given not in (None, here):
                problem = f"Ray Serve listens on {self.host}:{self.port} on this cluster already"
                raise ServeError.of(option, given, problem, f"leave it out, or say {here}")
        if loopback and not is_loopback(self.host):
            problem = f"Ray Serve listens on {self.host} on this cluster, where others can ask"
            raise ServeError.of("--host", None, problem, f"say --host {self.host}")
        if name in self.routes:
            problem = "an application of that name runs on this cluster already"
            fix = "end it first; `serve status` shows what runs"
            raise ServeError.of("ftray serve", name, problem, fix)
        for other, route in self.routes.items():
            if route == place.prefix:
                fix = f"name another one, such as --route-prefix /{name}"
                raise ServeError.of("--route-prefix", route, f"is that of {other}", fix)


def find_running() -> Running | None:
    """Ask the cluster for its Ray Serve; None where none runs."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    applications = ServeInstanceDetails(**client.get_serve_details()).applications
    live = {n: app.route_prefix for n, app in applications.items() if app.status != "DELETING"}
    return Running(str(client.http_config.host), client.http_config.port, live)


def end(name: str, started: bool, patience_s: float, at_once: Callable[[], bool]) -> None:
    """End the application once the requests in progress are answered, after `patience_s` seconds,
    or as soon as `at_once` says so. Shut down Serve too where it was `started` for this application
    and no other application needs it."""
    if name in serve.status().applications:
        serve.delete(name, _blocking=False)
        limit = time.monotonic() + patience_s
        while name in serve.status().applications and time.monotonic() < limit and not at_once():
            time.sleep(_POLL_S)
    # The shutdown of Serve ends its proxy at once, and every answer in progress: it comes last.
    if started and not serve.status().applications.keys() - {name}:
        serve.shutdown()
