"""`ftray submit VERB SPEC`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ftray.cli.console import AsJson, Set, SpecPath, say, verb


class Verb(StrEnum):
    train = "train"
    tune = "tune"


@verb
def submit(
    action: Annotated[Verb, typer.Argument(metavar="VERB", help="train or tune.")],
    spec: SpecPath,
    overrides: Set = None,
    as_json: AsJson = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the cluster's Jobs API. Else $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the verb as a Ray job: package spec, data and ftray, follow the log, exit as it does."""
    from ftray.spec.load import load
    from ftray.submit import submit_job

    code = submit_job(action.value, load(spec, overrides or (), say), as_json, address, say)
    raise typer.Exit(code)
