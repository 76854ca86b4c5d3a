"""The route file of an alias: routes/NAME/ALIAS.json below the storage root.

Both the commands that promote a version and the replicas that serve the alias write the file; the
replicas need no MLflow and no network path to its server. Each process writes only over the content
that it has read. A generation number makes every content unique, so of two processes that write at
once one is refused and reads again.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from ftray.errors import RegistryError
from ftray.spec.messages import first_fault
from ftray.store.deployments.routes import AliasDeployment
from ftray.store.files.document import Frozen, change, open_document
from ftray.store.files.location import Location
from ftray.store.root import Root

_SUFFIX = ".json"
Edit = Callable[[AliasDeployment | None], AliasDeployment | None]


class _AllAliases(Frozen):
    """routes/NAME.json, the file of ftray before each alias had its own."""

    routes: dict[str, AliasDeployment] = {}


def read_route(root: Root, name: str, alias: str) -> AliasDeployment | None:
    """Read the route of an alias; None where no command promoted a version to it. Raises
    RegistryError for a file that is no route file, and StorageError where the storage does not
    answer."""
    return _parsed(root, name, alias, open_document(_file(root, name, alias)).read().content)


def read_routes(root: Root, name: str) -> dict[str, AliasDeployment]:
    """The routes of all aliases of a model. Raises as `read_route`."""
    names = (child.name for child in root.routes(name).children())
    aliases = {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}
    found = {alias: read_route(root, name, alias) for alias in sorted(aliases)}
    return _older(root, name) | {alias: route for alias, route in found.items() if route}


def change_route(root: Root, name: str, alias: str, edit: Edit) -> AliasDeployment | None:
    """Replace a route by the route that `edit` returns; None leaves the file as it is.

    Calls `edit` again where another process changed the file in between. Returns the resulting
    route. Raises as `read_route`."""
    now: AliasDeployment | None = None

    def written(content: bytes | None) -> bytes | None:
        nonlocal now
        now = _parsed(root, name, alias, content)
        edited = edit(now)
        if edited is None or edited == now:
            return None
        generation = 1 if now is None else now.generation + 1
        now = edited.model_copy(update={"generation": generation})
        return now.model_dump_json(indent=2).encode()

    change(open_document(_file(root, name, alias)), written)
    return now


def _file(root: Root, name: str, alias: str) -> Location:
    return root.routes(name) / f"{alias}{_SUFFIX}"


def _parsed(root: Root, name: str, alias: str, content: bytes | None) -> AliasDeployment | None:
    if content is None:
        return _older(root, name).get(alias)
    try:
        return AliasDeployment.model_validate_json(content)
    except ValidationError as error:
        raise _unreadable(_file(root, name, alias), error) from None


def _older(root: Root, name: str) -> dict[str, AliasDeployment]:
    """Read the routes that an older ftray wrote. An alias with a file of its own supersedes
    them."""
    file = root.location / "routes" / f"{name}{_SUFFIX}"
    content = open_document(file).read().content
    if content is None:
        return {}
    try:
        return _AllAliases.model_validate_json(content).routes
    except ValidationError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Location, error: ValidationError) -> RegistryError:
    problem = f"cannot be read: {first_fault(error)}"
    fix = "promote the version again after moving the file away"
    return RegistryError.of("routes", file.url, problem, fix)
