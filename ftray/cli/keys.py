"""`ftray keys`: who may ask a served model."""

from __future__ import annotations

from typing import Annotated

import typer

from ftray.cli.console import AsJson, emit, say, verb

app = typer.Typer(
    help="Make, list and revoke API keys; serve.api_keys of the spec names their file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="Whose key it is.")]
File = Annotated[str, typer.Option(help="The file of hashes: a path or URL.")]
_FILE = "api-keys.txt"


@app.command()
@verb
def add(name: Name, file: File = _FILE, as_json: AsJson = False) -> None:
    """Make a key and print it: it is shown once, and only its hash is kept."""
    from ftray.serve.access import add_key
    from ftray.store.location import locate

    key = add_key(locate(file), name)
    if as_json:
        emit({"name": name, "key": key, "file": file})
        return
    say(f"{name} may ask with the header Authorization: Bearer KEY; the key is not kept anywhere")
    print(key)


@app.command("list")
@verb
def list_(file: File = _FILE, as_json: AsJson = False) -> None:
    """The names of all keys."""
    from ftray.serve.access import read_keys
    from ftray.store.location import locate

    names = list(read_keys(locate(file)))
    if as_json:
        emit({"names": names})
        return
    for name in names:
        print(name)


@app.command()
@verb
def revoke(name: Name, file: File = _FILE, as_json: AsJson = False) -> None:
    """Admit a key no longer: replicas notice within seconds."""
    from ftray.serve.access import revoke_key
    from ftray.store.location import locate

    revoke_key(locate(file), name)
    if as_json:
        emit({"name": name, "file": file})
    else:
        say(f"{name} is revoked")
