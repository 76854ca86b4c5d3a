"""`ftray keys`: makes, lists and revokes the API keys of served models."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ftray.cli.console import AsJson, emit, say, verb

app = typer.Typer(
    help="Make, list and revoke API keys; serve.api_keys of the spec names their file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Scope = Literal["predict", "metrics"]
Name = Annotated[str, typer.Argument(help="Whose key it is.")]
File = Annotated[str, typer.Option(help="The file of hashes: a path or URL.")]
_FILE = "api-keys.txt"


@app.command()
@verb
def add(
    name: Name,
    file: File = _FILE,
    scope: Annotated[
        Scope | None, typer.Option(help="All that it is for. Else both.", show_default=False)
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(min=1, max=10**9 - 1, help="Requests that a replica takes of it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: it is shown once, and only its hash is kept."""
    from ftray.serve.http.auth import SCOPES, add_key
    from ftray.store.files.location import locate

    key = add_key(locate(file), name, [scope] if scope else SCOPES, per_minute)
    if as_json:
        emit({"name": name, "key": key, "file": file})
        return
    say(f"{name} may ask with the header Authorization: Bearer KEY; the key is not kept anywhere")
    print(key)


@app.command("list")
@verb
def list_(file: File = _FILE, as_json: AsJson = False) -> None:
    """The names of all keys."""
    from ftray.serve.http.auth import read_keys
    from ftray.store.files.location import locate

    keys = read_keys(locate(file))
    if as_json:
        several = {
            name: {"scopes": sorted(key.scopes), "per_minute": key.per_minute}
            for name, key in keys.items()
        }
        emit({"names": list(keys), "keys": several})
        return
    for name in keys:
        print(name)


@app.command()
@verb
def revoke(name: Name, file: File = _FILE, as_json: AsJson = False) -> None:
    """Admit a key no longer: replicas notice within seconds."""
    from ftray.serve.http.auth import revoke_key
    from ftray.store.files.location import locate

    revoke_key(locate(file), name)
    if as_json:
        emit({"name": name, "file": file})
    else:
        say(f"{name} is revoked")
