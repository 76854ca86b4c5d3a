"""`ftray evaluate MODEL`."""

from __future__ import annotations

from typing import Annotated

import typer

from ftray.cli.console import AsJson, ModelName, Storage, TrustCode, emit, say, verb

TextColumn = Annotated[
    str | None,
    typer.Option("--text", metavar="COLUMN", help="Column of what is asked. Else as in the spec."),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="Column of the answers. Else as in the spec."),
]
Encoding = Annotated[
    str | None, typer.Option(help="Of text files. Else as in the spec.", show_default=False)
]


@verb
def evaluate(
    model: ModelName,
    data: Annotated[
        str | None,
        typer.Option(help="Any source that data.train takes. Else the model's own test split."),
    ] = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    encoding: Encoding = None,
    storage: Storage = None,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Metrics of a model on its test split or on another source with answers."""
    from ftray.serve.settings import find_one

    served = find_one(model, storage, trust_remote_code)
    from transformers.utils import logging

    from ftray.serve.evaluate import evaluate as run

    logging.disable_progress_bar()
    found = run(served, data, (text, label), encoding)
    if as_json:
        emit(found.to_json())
        return
    say(f"{served.reference} on {found.rows:,} rows of {found.data}")
    for name, value in found.metrics.items():
        if isinstance(value, float):
            print(f"{name:10} {value:.4f}")
