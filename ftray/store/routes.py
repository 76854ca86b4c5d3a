"""Where an alias leads: the version that is served under it, the one on trial beside it, and those
before.

One small JSON file a model, routes/NAME.json below the storage root. Who promotes a version writes
it; the replicas that serve an alias look at it every few seconds, and need neither MLflow nor a way
to its server for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftray.errors import RegistryError
from ftray.store.document import change, open_document
from ftray.store.root import Root

_MOST_BEFORE = 50


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Stop(_Frozen):
    """A version, and its folder's path below the storage root."""

    version: int
    folder: str


class Trial(_Frozen):
    """A version that gets a share of the requests; or, in the shadow, a copy of them, while the
    current version answers."""

    stop: Stop
    share: Annotated[float, Field(gt=0, le=1)]
    shadow: bool = False


class Route(_Frozen):
    """before: what was current earlier, newest last; ended: how the last trial ended badly."""

    current: Stop
    before: tuple[Stop, ...] = ()
    trial: Trial | None = None
    ended: str = ""

    def to(self, stop: Stop) -> Self:
        """With another current version, and nothing on trial."""
        if stop == self.current:
            return self.model_copy(update={"trial": None, "ended": ""})
        before = (*self.before, self.current)[-_MOST_BEFORE:]
        return self.model_copy(
            update={"current": stop, "before": before, "trial": None, "ended": ""}
        )

    def with_trial(self, trial: Trial) -> Self:
        return self.model_copy(update={"trial": trial, "ended": ""})

    def without_trial(self, why: str = "") -> Self:
        return self.model_copy(update={"trial": None, "ended": why})

    def back(self) -> Self:
        """As before the last change: without the trial or, where there is none, at the version
        before."""
        if self.trial is not None:
            return self.without_trial()
        return self.model_copy(
            update={"current": self.before[-1], "before": self.before[:-1], "ended": ""}
        )


class _File(_Frozen):
    routes: dict[str, Route] = {}


def read_route(root: Root, name: str, alias: str) -> Route | None:
    """None where nobody promoted a version to that alias. Raises RegistryError for a file that
    is no such file, and StorageError for a storage that does not answer."""
    return read_routes(root, name).get(alias)


def read_routes(root: Root, name: str) -> dict[str, Route]:
    """The routes of all aliases of a model. Raises as `read_route`."""
    return _parse(root, name, open_document(root.routes(name)).read().content).routes


def change_route(
    root: Root, name: str, alias: str, edit: Callable[[Route | None], Route | None]
) -> None:
    """Put what `edit` makes of a route in its place; it is called again where another process
    changed the file in between, and None leaves all as it is. Raises as `read_route`."""

    def written(content: bytes | None) -> bytes | None:
        routes = _parse(root, name, content).routes
        route = edit(routes.get(alias))
        if route is None or route == routes.get(alias):
            return None
        return _File(routes={**routes, alias: route}).model_dump_json(indent=2).encode()

    change(open_document(root.routes(name)), written)


def end_trial(root: Root, name: str, alias: str, trial: Trial, why: str) -> None:
    """Where that trial still goes on. Raises as `read_route`."""

    def ended(route: Route | None) -> Route | None:
        goes_on = route is not None and route.trial == trial
        return route.without_trial(why) if route is not None and goes_on else None

    change_route(root, name, alias, ended)


def _parse(root: Root, name: str, content: bytes | None) -> _File:
    if content is None:
        return _File()
    try:
        return _File.model_validate_json(content)
    except ValidationError as error:
        problem = f"cannot be read: {error.errors()[0]['msg']}"
        fix = "promote the version again after moving the file away"
        raise RegistryError.of("routes", root.routes(name).url, problem, fix) from None
