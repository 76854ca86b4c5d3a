"""Behaviour common to all verbs: errors without a traceback, exit codes, one JSON line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

SpecPath = Annotated[str, typer.Argument(metavar="SPEC", help="The YAML file.")]
_WHICH = "NAME, NAME@alias, NAME:VERSION or a model folder."
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help=_WHICH)]
ModelNames = Annotated[list[str], typer.Argument(metavar="MODEL", help=_WHICH)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec.")
]
AsJson = Annotated[bool, typer.Option("--json", help="End stdout with one JSON object.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
Storage = Annotated[
    str | None,
    typer.Option(help="Storage root. Else $FTRAY_STORAGE, else ./ftray-data.", show_default=False),
]


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an FtrayError, however wrapped, into its message on stderr and its exit code."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            from ftray.errors import find

            known = find(error)
            if known is None:
                raise
            say(str(known))
            raise typer.Exit(known.exit_code) from None

    return wrapper


def confirmed(noun: str, doomed: Sequence[str], yes: bool, dry_run: bool) -> bool:
    """List what is to be deleted and ask, unless `yes`; return whether to go on. Exits with 1 where
    the person says no; raises RegistryError where there is no person to ask."""
    from ftray.errors import RegistryError

    for each in doomed:
        say(f"{'would delete' if dry_run else 'to be deleted:'} {each}")
    if dry_run or not doomed:
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        fix = "say --yes to go ahead, or --dry-run to see what would be deleted"
        raise RegistryError.of("--yes", None, "missing, and nobody can be asked here", fix)
    question = f"Delete {len(doomed)} {noun}{'s' if len(doomed) > 1 else ''} for good?"
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
    return True


def say(message: str) -> None:
    """Print a line for the person on stderr, so that stdout stays clean for programs."""
    from ftray.cli.display.table import stderr_width, wrapped

    width = stderr_width()
    print(wrapped(message, width) if width else message, file=sys.stderr, flush=True)


def emit(result: dict[str, Any]) -> None:
    """Print the one JSON object that `--json` promises, as the last line of stdout."""
    print(json.dumps(result, ensure_ascii=False), flush=True)
