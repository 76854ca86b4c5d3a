"""`ftray models`: the registry's versions and aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import AsJson, ModelName, Storage, emit, say, verb

if TYPE_CHECKING:
    from ftray.models.folder import ModelInfo
    from ftray.store.location import Location

app = typer.Typer(
    help="List, show, promote and export registered models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this model's versions.")]
Alias = Annotated[str, typer.Option(help="A word for this version, such as production.")]
Out = Annotated[str, typer.Option(help="A new or empty folder, or a URL.")]


@app.command("list")
@verb
def list_(name: Name = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """All versions, of one model or of every one."""
    from ftray.cli.table import show
    from ftray.store.registry import Registry
    from ftray.store.root import open_root

    registry = Registry.open(open_root(storage))
    names = registry.names() if name is None else [name]
    versions = [version for known in names for version in registry.versions(known)]
    if name is not None and not versions:
        registry.resolve(name)  # says which models there are instead
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
    from ftray.cli.table import show as show_table
    from ftray.models.folder import read_info
    from ftray.store.registry import Registry, find_model
    from ftray.store.root import open_root

    found = find_model(model, storage)
    info = read_info(found.folder)
    known: dict[str, Any] = {"model": found.name, "version": None, "model_dir": found.folder.url}
    if found.version is not None:
        registered = Registry.open(open_root(storage)).resolve(f"{found.name}:{found.version}")
        known = registered.to_json()
        del known["metrics"]  # the manifest has those of every split
    known |= _described(info)
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
    model: ModelName, alias: Alias, storage: Storage = None, as_json: AsJson = False
) -> None:
    """Give a version an alias, taking it from the version that had it."""
    from ftray.store.registry import Registry
    from ftray.store.root import open_root

    version = Registry.open(open_root(storage)).promote(model, alias)
    say(f"{version.name}@{alias} is now version {version.version}")
    if as_json:
        emit(version.to_json())


@app.command()
@verb
def export(model: ModelName, out: Out, storage: Storage = None, as_json: AsJson = False) -> None:
    """Copy the model's folder: it opens with plain transformers wherever it lies."""
    from ftray.models.folder import read_info
    from ftray.store.location import locate
    from ftray.store.registry import find_model
    from ftray.store.root import MODEL_MANIFEST

    found = find_model(model, storage)
    read_info(found.folder)
    target = locate(out)
    _check_target(target, found.folder)
    with found.folder.as_local() as folder:
        target.upload(folder, last=MODEL_MANIFEST)
    say(f"{model} is now also in {target}")
    if as_json:
        emit({"model": found.name, "version": found.version, "out": target.url})


def _check_target(target: Location, source: Location) -> None:
    """Raises StorageError unless `target` is a new or empty folder apart from `source`."""
    from ftray.errors import StorageError

    fix = "name a new or an empty folder"
    if target.is_file() or target.children():
        raise StorageError.of("--out", target.url, "is not empty", fix)
    if f"{target.path}/".startswith(f"{source.path}/"):
        raise StorageError.of("--out", target.url, "lies in the model folder itself", fix)


def _described(info: ModelInfo) -> dict[str, Any]:
    """What the manifest says of a model, without its golden answers."""
    return info.model_dump(
        mode="json", include={"task", "labels", "base", "run", "data_digest", "metrics"}
    ) | {"ftray": info.ftray_version}


def _lines(known: dict[str, Any]) -> list[tuple[str, Any]]:
    """Key and value of each line; a section becomes one line for each key not said already."""
    lines: list[tuple[str, Any]] = []
    for key, value in known.items():
        if isinstance(value, dict):
            lines += [
                (f"{key}.{name}", inner) for name, inner in value.items() if name not in known
            ]
        else:
            lines.append((key, ", ".join(value) if isinstance(value, list) else value))
    return lines


def _by_split(splits: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """A row a metric, a column a split; what is no number, such as a matrix, is left out."""
    names = [
        name
        for name, value in next(iter(splits.values()), {}).items()
        if isinstance(value, (int, float))
    ]
    return [[name, *(values.get(name) for values in splits.values())] for name in names]
