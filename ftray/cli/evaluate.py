"""`ftray evaluate MODEL`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import AsJson, ModelName, Overwrite, Storage, TrustCode, emit, say, verb

if TYPE_CHECKING:
    from ftray.errors import SpecError
    from ftray.models.artifact.groups import GroupMetrics
    from ftray.models.artifact.named import NamedModel
    from ftray.tasks.per_label import LabelScore

_MOST_LABELS, _MOST_PAIRS = 20, 10
_MATRIX = 7
"""Most labels for which all pairs are shown. With so few labels the list of pairs is complete."""

TextColumn = Annotated[
    str | None,
    typer.Option("--text", metavar="COLUMN", help="Column of what is asked. Else as in the spec."),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="Column of the answers. Else as in the spec."),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="LOGICAL=NAME", help="Name of a column in the source; repeatable."
    ),
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
    column: ColumnNames = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    encoding: Encoding = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Also measure the rows of each value by themselves."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Write the wrong rows there: a .jsonl, .csv or .parquet file or URL."),
    ] = None,
    overwrite: Overwrite = False,
    storage: Storage = None,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Metrics of a model on its test split or on another source with answers, over all rows and
    for each label."""
    from ftray.models.artifact.named import find_named
    from ftray.offline import writers as output

    target = None if out is None else output.open_output(out, overwrite)
    served = find_named(model, storage, trust_remote_code)
    from transformers.utils import logging

    from ftray.offline.evaluate import evaluate as run

    logging.disable_progress_bar()
    if target is not None and served.info.kind.generates:
        raise without_labels(served, "--out")
    found = run(served, data, columns_of(served, column or (), text, label), encoding, by)
    if target is not None:
        rows = [wrong.row for wrong in found.wrong]
        answers = {"prediction": [w.prediction for w in found.wrong]}
        if any(wrong.score is not None for wrong in found.wrong):
            answers["score"] = [w.score for w in found.wrong]
        output.write(target, rows, answers)
    if as_json:
        emit({**found.to_json(), **({"out": target.url} if target else {})})
        return
    say(f"{served.reference} on {found.rows:,} rows of {found.data}")
    for name, value in found.metrics.items():
        if isinstance(value, float):
            print(f"{name:10} {value:.4f}")
    if found.labels:
        _show_labels(found.labels, found.metrics["confused"])
    if by:
        _show_groups(by, found.groups)
    if target is not None:
        order = "the surest" if found.labels else "the largest error"
        say(f"{len(found.wrong):,} wrong rows, {order} first: {target.url}")


def columns_of(
    served: NamedModel, given: Sequence[str], text: str | None, label: str | None = None
) -> dict[str, str]:
    """Return logical column -> name in the source from the options --column, --text and --label.
    Raises SpecError for a column that the model's rows do not have."""
    from ftray.errors import SpecError
    from ftray.spec.load import parse

    known = parse(served.info.spec).columns
    answers = served.info.kind.answers
    asked = next(name for name in known if name not in answers)
    found = {asked: text} if text else {}
    if label:
        answer = next((name for name in known if name in answers), None)
        if answer is None:
            problem = f"{served.reference} has what is asked and its answer in one column"
            raise SpecError.of("--label", label, problem, "leave it out")
        found[answer] = label
    for each in given:
        logical, _, name = each.partition("=")
        if logical not in known or not name:
            fix = f"write LOGICAL=NAME; the model's rows have {', '.join(known)}"
            raise SpecError.of("--column", each, "names no column of the model", fix)
        found[logical] = name
    return found


def without_labels(served: NamedModel, option: str) -> SpecError:
    """Make the error for an option that needs a model with labels."""
    from ftray.errors import SpecError

    what = "writes texts" if served.info.kind.generates else f"is for {served.info.task}"
    problem = f"{served.reference} {what}: it has no labels"
    return SpecError.of(option, None, problem, "leave it out")


def _show_groups(column: str, groups: Sequence[GroupMetrics]) -> None:
    """Print a table of the metrics of each value of a column."""
    from ftray.cli.display.table import show

    names = [*dict.fromkeys(name for group in groups for name in group.metrics)]
    cells = [
        [group.value, group.rows, *(group.metrics.get(name) for name in names)] for group in groups
    ]
    print()
    show([column, "rows", *names], cells)


def _show_labels(labels: Sequence[LabelScore], confused: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of the labels with most rows, and of the labels that the model confuses."""
    from ftray.cli.display.table import show

    shown = sorted(labels, key=lambda label: -label.rows)[:_MOST_LABELS]
    print()
    show(
        ["label", "rows", "predicted", "precision", "recall", "f1"],
        [tuple(label) for label in shown],
    )
    if len(labels) > len(shown):
        say(f"and {len(labels) - len(shown):,} labels with fewer rows; --json has all")
    if not confused:
        return
    print()
    if len(labels) <= _MATRIX:
        counts = {(pair["label"], pair["predicted"]): pair["rows"] for pair in confused}
        counts |= {(of.label, of.label): round(of.recall * of.rows) for of in labels}
        names = [of.label for of in labels]
        cells = [[name, *(counts.get((name, said), 0) for said in names)] for name in names]
        show(["label", *(f"-> {name}" for name in names)], cells)
    else:
        pairs = confused[:_MOST_PAIRS]
        show(["label", "taken for", "rows"], [tuple(pair.values()) for pair in pairs])
