"""`ftray predict MODEL --data D --out F`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer

from ftray.cli.console import AsJson, ModelName, Overwrite, Set, Storage, TrustCode, emit, say, verb
from ftray.cli.evaluate import (
    ColumnNames,
    Encoding,
    TextColumn,
    columns_of,
    without_labels,
)


@verb
def predict(
    model: ModelName,
    data: Annotated[str, typer.Option(help="Any source that data.train takes; no labels needed.")],
    out: Annotated[str, typer.Option(help="A .jsonl, .csv or .parquet file or URL.")],
    overwrite: Overwrite = False,
    column: ColumnNames = None,
    text: TextColumn = None,
    encoding: Encoding = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add the probability of every label.")
    ] = False,
    storage: Storage = None,
    overrides: Set = None,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """The prediction and its score for every row, in order, beside the row's own columns. A run
    that was killed goes on with the same command."""
    from ftray.cluster.connection import session
    from ftray.offline import predict as batch
    from ftray.offline import writers as output
    from ftray.offline.resume import Parts, run_key
    from ftray.serve.settings import find, parse
    from ftray.spec.load import serving

    target = output.open_output(out, overwrite)
    given = {**serving(overrides or (), say), "model": model, "storage": storage}
    (served,), spec = find(parse({**given, "trust_remote_code": trust_remote_code}))
    if probabilities and not served.info.kind.has_labels:
        raise without_labels(served, "--probabilities")
    added = (*served.info.kind.outcome, *([output.PROBABILITIES] if probabilities else []))
    rows = batch.read_rows(served, data, columns_of(served, column or (), text), encoding, added)
    parts = Parts(target, run_key(served.info, spec.compute, rows.questions, probabilities))
    with session(), _silence():
        answers = batch.predict(served, rows, spec.compute, parts, probabilities)
    rows, labels = answers.rows, served.info.labels
    columns = {name: [of.get(name) for of in answers.outcomes] for name in served.info.kind.outcome}
    if probabilities:
        shares = (dict(zip(labels, of or (), strict=False)) for of in answers.probabilities)
        columns[output.PROBABILITIES] = list(shares)
    output.write(target, rows.values, columns)
    parts.delete()
    if rows.left_out:
        file = output.write_left_out(target, rows.left_out)
        say(f"{len(rows.left_out):,} rows of {data} cannot be read and are left out: see {file}")
    if answers.cut:
        say(f"{answers.cut:,} rows are longer than the model reads: what is beyond that was cut")
    if as_json:
        done = {"model": served.name, "version": served.version, "rows": len(rows.questions)}
        emit({**done, "out": str(target)})
    else:
        say(f"{len(rows.questions):,} rows answered by {served.reference}")
        print(target)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray's output off the terminal. Ray's core writes a needless warning (that actors can be
    restarted) to the file descriptor of stderr, and writes its errors, which it also raises, to
    stdout."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        with redirect_stdout(None):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
