"""The `ftray` command. Imports nothing heavy, so that `ftray --help` answers at once."""

from __future__ import annotations

import atexit
import os
import platform
import sys
import threading
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from ftray.cli import keys, models, runs
from ftray.cli.doctor import doctor
from ftray.cli.evaluate import evaluate
from ftray.cli.init import init
from ftray.cli.predict import predict
from ftray.cli.schema import schema
from ftray.cli.serve import serve
from ftray.cli.submit import submit
from ftray.cli.train import train
from ftray.cli.tune import tune
from ftray.cli.validate import validate

app = typer.Typer(
    name="ftray",
    help="One YAML file from a pretrained model and a labelled data set to a served endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for command in (init, schema, validate, train, tune, evaluate, predict, serve, submit, doctor):
    app.command()(command)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda asked: _version(asked))
    ] = False,
) -> None: ...


app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(runs.app, name="runs")


def _version(asked: bool) -> None:
    """Print the versions of ftray and of the packages that determine its results."""
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    print(f"ftray {version('ftray')}, Python {platform.python_version()}")
    for name in ("ray", "torch", "transformers", "deepspeed"):
        with suppress(PackageNotFoundError):  # a serving image has no DeepSpeed
            print(f"{name} {version(name)}")
    raise typer.Exit


def main(*arguments: str) -> NoReturn:
    """Run the command with `arguments`, by default those of the command line, and end the
    process."""
    try:
        app(arguments or None)
    except SystemExit as end:
        _leave(end.code)
    raise AssertionError("typer ends with SystemExit")


def _leave(code: object) -> NoReturn:
    """End the process as Python does, but without freeing the objects of torch, Ray and MLflow one
    by one: that takes seconds, and the memory goes with the process anyway."""
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - joins what is not a daemon
    atexit._run_exitfuncs()  # noqa: SLF001
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
