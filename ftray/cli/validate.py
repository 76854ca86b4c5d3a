"""`ftray validate SPEC`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ftray.cli.console import AsJson, Set, SpecPath, emit, say, verb

if TYPE_CHECKING:
    from ftray.data.encoding.lengths import Lengths


@verb
def validate(spec: SpecPath, overrides: Set = None, as_json: AsJson = False) -> None:
    """Check spec, storage, data and base model; writes nothing and starts nothing."""
    from ftray.errors import FtrayError

    try:
        estimate = _examine(spec, overrides or [], as_json)
    except FtrayError as error:
        if not as_json:
            raise
        emit({"ok": False, "problems": [problem.to_json() for problem in error.problems]})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        emit({"ok": True, "problems": [], "estimate": estimate})
    else:
        print("ok")


def _examine(path: str, overrides: list[str], as_json: bool) -> dict[str, Any]:
    """Estimate a run: rows of each split, optimizer steps, lengths of rows, memory. Prints each as
    it is found; with `as_json` only the memory, to stderr. Raises FtrayError for every fault that
    would keep a run from starting."""
    from ftray.data.cleaning.report import in_words
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    checked = check_inputs(load(path, overrides, say))
    if not as_json:
        _say_each(checked.dataset.report.lines())
    # The data come first: importing torch and the model's code for these steps takes time.
    from ftray.train.memory.dry_run import dry_run

    blocks = dry_run(checked.spec, checked.dataset.schema)
    lengths, rejected = _lengths(checked)
    estimate = _estimate(checked, lengths)
    if not as_json:
        for kind, count in Counter(rejected.values()).items():
            say(f"train split: {in_words(kind, count)} left out")
        read = lengths.rows + len(rejected)
        sampled = f" ({read:,} rows of it)" if read < estimate["train"] else ""
        _say_each(lengths.lines(f"train split{sampled}"))
        _say_each(blocks)
        say(f"{estimate['steps']:,} optimizer steps of {checked.spec.train.batch_size} rows")
    return {**estimate, "memory": _memory(checked)}


def _memory(checked: Any) -> dict[str, Any] | None:
    """Print and return the memory that a worker needs; None where it cannot be estimated."""
    from ftray.errors import NoEstimate
    from ftray.train.memory.preflight import forecast

    try:
        found = forecast(checked.spec, checked.dataset.schema)
    except NoEstimate as error:
        say(f"memory not estimated: {error}")
        return None
    _say_each(found.lines())
    return found.to_json()


def _lengths(checked: Any) -> tuple[Lengths, dict[int, str]]:
    """Measure the lengths of a sample of the training rows, and find its rows without examples."""
    from ftray.data.encoding.lengths import estimate_lengths
    from ftray.data.encoding.rejected import without_rejected
    from ftray.models.limits import setup_of
    from ftray.models.pretrained import described
    from ftray.models.transformers_output import quiet_transformers
    from ftray.tasks import get_task

    spec, dataset = checked.spec, checked.dataset
    with quiet_transformers(), described(spec.model) as pretrained:
        setup = setup_of(pretrained, spec, dataset.schema)
        lengths, rejected = estimate_lengths(dataset.splits["train"], get_task(spec.task), setup)
        without_rejected(dataset, {"train": rejected}, spec)
        return lengths, rejected


def _estimate(checked: Any, lengths: Lengths) -> dict[str, Any]:
    """Return rows of each split, optimizer steps of the run, and lengths of the training rows."""
    rows = {split: table.num_rows for split, table in checked.dataset.splits.items()}
    examples = math.ceil(rows["train"] * lengths.examples / lengths.rows)
    steps = math.ceil(examples / checked.spec.train.batch_size) * checked.spec.train.epochs
    return {**rows, "steps": steps, "lengths": asdict(lengths)}


def _say_each(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)
