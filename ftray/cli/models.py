"""`ftray models`: the registry's versions and aliases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import (
    AsJson,
    DryRun,
    ModelName,
    Storage,
    Yes,
    confirmed,
    emit,
    say,
    verb,
)
from ftray.cli.display.rollout import PATIENCE_S, Wait, follow

if TYPE_CHECKING:
    from ftray.models.artifact.manifest import ModelInfo
    from ftray.store.files.location import Location
    from ftray.store.registry.registry import Registry
    from ftray.store.registry.versions import ModelVersion

_VALUES_SHOWN = 12

app = typer.Typer(
    help="List, show, promote, roll back, export and delete registered models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this model's versions.")]
Alias = Annotated[str, typer.Option(help="A word for this version, such as production.")]
Share = Annotated[
    str | None,
    typer.Option(
        help="Only try it out: on such a part of the requests, as 10%.", show_default=False
    ),
]
Shadow = Annotated[
    bool, typer.Option("--shadow", help="Try it out on copies: the current version answers all.")
]
To = Annotated[
    str,
    typer.Option(
        "--to",
        "--out",
        metavar="TARGET",
        help="A new or empty folder, a URL of one, or hub://OWNER/NAME.",
    ),
]
Onnx = Annotated[bool, typer.Option("--onnx", help="Add model.onnx, for ONNX Runtime.")]
Public = Annotated[bool, typer.Option("--public", help="Make a new repository of the Hub public.")]


def _registry(storage: str | None) -> Registry:
    from ftray.store.registry.registry import Registry
    from ftray.store.root import open_root

    return Registry(open_root(storage))


@app.command("list")
@verb
def list_(name: Name = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """All versions, of one model or of every one."""
    from ftray.cli.display.table import show
    from ftray.store.deployments.promotion import settled_routes

    registry = _registry(storage)
    names = registry.names() if name is None else [name]
    for known in names:
        settled_routes(registry, known)
    versions = [version for known in names for version in registry.versions(known)]
    if name is not None and not versions:
        registry.resolve(name)  # raises with the known models
    if as_json:
        emit({"models": [version.to_json() for version in versions]})
        return
    if not versions:
        say(f"no models in {registry.root} yet")
        return
    measured = list(dict.fromkeys(key for version in versions for key in version.metrics))
    show(
        ["model", "version", "aliases", *measured, "run", "created"],
        [
            [v.name, v.version, ", ".join(v.aliases), *map(v.metrics.get, measured), v.run]
            + [v.created[:19].replace("T", " ")]
            for v in versions
        ],
    )


@app.command()
@verb
def show(model: ModelName, storage: Storage = None, as_json: AsJson = False) -> None:
    """One version: where it lies, where it comes from, and how good it is."""
    from ftray.cli.display import rollout
    from ftray.cli.display.table import show as show_table
    from ftray.models.artifact.named import find_named
    from ftray.store.deployments.promotion import settled_routes

    found = find_named(model, storage)
    tell = rollout.as_json if as_json else rollout.described
    known: dict[str, Any] = {"model": found.name, "version": None, "model_dir": found.folder.url}
    if found.version is not None:
        registry = _registry(storage)
        routes = settled_routes(registry, found.name)
        known = registry.resolve(f"{found.name}:{found.version}").to_json()
        del known["metrics"]  # the manifest has the metrics of every split
        known["routes"] = {alias: tell(route) for alias, route in routes.items()}
    known |= _described(found.info)
    if as_json:
        emit(known)
        return
    splits = known.pop("metrics")
    show_table(["", ""], _lines(known))
    print()
    show_table(["metric", *splits], _by_split(splits))


@app.command()
@verb
def promote(
    model: ModelName,
    alias: Alias,
    share: Share = None,
    shadow: Shadow = False,
    wait: Wait = PATIENCE_S,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Give a version an alias, taking it from the version that had it; or try it out beside that
    one. What serves the alias follows without losing a request; ends with 1 where it does not."""
    from ftray.store.deployments.promotion import promote as point
    from ftray.store.deployments.promotion import try_out

    registry = _registry(storage)
    if share is None and not shadow:
        changed = point(registry, model, alias)
        say(f"{changed.model.name}@{alias} is now version {changed.model.version}")
    else:
        part = _fraction(share)
        changed = try_out(registry, model, alias, part, shadow)
        what = "copies of " if shadow else ""
        say(f"version {changed.model.version} gets {what}{part:.0%} of the requests to {alias}")
    told = follow(registry, changed, alias, wait)
    if as_json:
        emit(told)


@app.command()
@verb
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    alias: Alias,
    wait: Wait = PATIENCE_S,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """End the trial of an alias or, where there is none, point it to the version before."""
    from ftray.store.deployments.promotion import roll_back

    registry = _registry(storage)
    changed = roll_back(registry, name, alias)
    say(f"{name}@{alias} is version {changed.model.version} again, and nothing is on trial")
    told = follow(registry, changed, alias, wait)
    if as_json:
        emit(told)


def _fraction(share: str | None) -> float:
    """Parse a share such as `10%` or `0.1`; 1 where none is given. Raises RegistryError."""
    from ftray.errors import RegistryError

    text = (share or "100%").strip()
    try:
        part = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise RegistryError.of("--share", share, "is no share", "such as 10% or 0.1, up to 100%")
    return part


@app.command()
@verb
def export(
    model: ModelName,
    to: To,
    onnx: Onnx = False,
    public: Public = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Copy the model's folder: it opens with plain transformers wherever it lies."""
    from ftray.models.artifact.hub import push, repository
    from ftray.models.artifact.named import find_named
    from ftray.store.files.location import locate
    from ftray.store.root import MODEL_MANIFEST

    found, repo = find_named(model, storage), repository(to)
    target = None if repo else locate(to)
    if target is not None:
        _check_target(target, found.folder)
    with found.folder.as_local() as folder, _with_onnx(Path(folder), onnx) as whole:
        if target is not None:
            target.upload(whole, last=MODEL_MANIFEST)
        where = target.url if target else push(whole, str(repo), public, f"{model} by ftray")
    say(f"{model} is now also in {where}")
    if as_json:
        emit({"model": found.name, "version": found.version, "out": where})


@contextmanager
def _with_onnx(folder: Path, wanted: bool) -> Iterator[Path]:
    """Yield the model folder, or where `wanted` a copy of it with ONNX's graph. Raises
    ModelError."""
    if not wanted:
        yield folder
        return
    import shutil
    import tempfile

    from ftray.models.artifact.onnx_file import ONNX, write_onnx

    with tempfile.TemporaryDirectory(prefix="ftray-export-") as temporary:
        whole = shutil.copytree(folder, Path(temporary) / "model")
        write_onnx(whole, whole / ONNX)
        yield whole


@app.command()
@verb
def delete(
    models: Annotated[list[str], typer.Argument(metavar="NAME:VERSION...")],
    yes: Yes = False,
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Delete versions with their folders: none that an alias points to, or that is on trial."""
    from rich.filesize import decimal as file_size

    from ftray.store.removal import check_unused, delete_version

    registry = _registry(storage)
    found = [_exact(registry, model) for model in dict.fromkeys(models)]
    for version in found:
        check_unused(registry, version)
    doomed = [f"{v.reference} in {v.folder} ({file_size(v.folder.size())})" for v in found]
    if confirmed("version", doomed, yes, dry_run):
        for version in found:
            delete_version(registry, version)
            say(f"deleted {version.reference}")
    if as_json:
        emit({"deleted": [version.reference for version in found], "dry_run": dry_run})


def _exact(registry: Registry, model: str) -> ModelVersion:
    """Return the version that NAME:VERSION means, whether or not its folder still exists. Raises
    RegistryError for a reference that may mean another version tomorrow."""
    from ftray.errors import RegistryError
    from ftray.store.registry.versions import Reference

    wanted = Reference.parse(model)
    if wanted.version is None:
        fix = f"name a version: {wanted.name}:N; `ftray models list {wanted.name}` shows them"
        raise RegistryError.of("model", model, "says not which version is to be deleted", fix)
    versions = registry.versions(wanted.name)
    return wanted.choose(versions) if versions else registry.resolve(model)


def _check_target(target: Location, source: Location) -> None:
    """Raise StorageError unless `target` is a new or empty folder outside `source`."""
    from ftray.errors import StorageError

    fix = "name a new or an empty folder"
    if target.is_file() or target.children():
        raise StorageError.of("--to", target.url, "is not empty", fix)
    if f"{target.path}/".startswith(f"{source.path}/"):
        raise StorageError.of("--to", target.url, "lies in the model folder itself", fix)


def _described(info: ModelInfo) -> dict[str, Any]:
    """Return the manifest's facts about a model, without its golden answers."""
    return info.model_dump(
        mode="json", include={"task", "labels", "base", "run", "data_digest", "metrics"}
    ) | {"ftray": info.ftray_version}


def _lines(known: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return key and value of each line. A section gives one line for each of its keys that is not
    already a key of `known`."""
    lines: list[tuple[str, Any]] = []
    for key, value in known.items():
        if isinstance(value, dict):
            lines += [
                (f"{key}.{name}", inner) for name, inner in value.items() if name not in known
            ]
        else:
            lines.append((key, _listed(value) if isinstance(value, list) else value))
    return lines


def _listed(values: list[str]) -> str:
    more = len(values) - _VALUES_SHOWN
    return ", ".join([*values[:_VALUES_SHOWN], *([f"and {more:,} more"] if more > 0 else [])])


def _by_split(splits: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Return one row a metric and one column a split, without values that are no numbers."""
    names = [
        name
        for name, value in next(iter(splits.values()), {}).items()
        if isinstance(value, (int, float))
    ]
    return [[name, *(values.get(name) for values in splits.values())] for name in names]
