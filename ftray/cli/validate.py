"""`ftray validate SPEC`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ftray.cli.console import AsJson, Set, SpecPath, emit, say, verb

if TYPE_CHECKING:
    from ftray.data.lengths import Lengths


@verb
def validate(spec: SpecPath, overrides: Set = None, as_json: AsJson = False) -> None:
    """Check spec, storage, data and base model; writes nothing and starts nothing."""
    from ftray.errors import FtrayError

    try:
        checked = _check(spec, overrides or [])
    except FtrayError as error:
        problems = [problem.to_json() for problem in error.problems]
        if not as_json:
            raise
        emit({"ok": False, "problems": problems})
        raise typer.Exit(error.exit_code) from None
    lengths = _lengths(checked)
    estimate = _estimate(checked, lengths)
    if not as_json:
        for line in checked.dataset.report.lines():
            say(line)
        sampled = f" ({lengths.rows:,} rows of it)" if lengths.rows < estimate["train"] else ""
        for line in lengths.lines(f"train split{sampled}"):
            say(line)
        say(f"{estimate['steps']:,} optimizer steps of {checked.spec.train.batch_size} rows")
    # Last, as it needs torch and the model's code.
    memory = _memory(checked)
    if as_json:
        emit({"ok": True, "problems": [], "estimate": {**estimate, "memory": memory}})
        return
    print("ok")


def _check(path: str, overrides: list[str]) -> Any:
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    return check_inputs(load(path, overrides, say))


def _memory(checked: Any) -> dict[str, Any] | None:
    """What a worker needs, told and as JSON; None where that cannot be foreseen."""
    from ftray.errors import FtrayError
    from ftray.train.preflight import forecast

    try:
        found = forecast(checked.spec, checked.dataset.labels)
    except FtrayError as error:
        say(f"memory not estimated: {error}")
        return None
    for line in found.lines():
        say(line)
    return found.to_json()


def _lengths(checked: Any) -> Lengths:
    """How long the rows to train on are."""
    from ftray.data.lengths import estimate_lengths
    from ftray.models.pretrained import described
    from ftray.models.quiet import quiet_transformers
    from ftray.tasks import get_task

    spec, dataset = checked.spec, checked.dataset
    with quiet_transformers(), described(spec.model) as pretrained:
        tokenizer = pretrained.tokenizer()
        task, rows = get_task(spec.task), dataset.splits["train"]
        return estimate_lengths(rows, task, tokenizer, dataset.labels, spec.data.max_length)


def _estimate(checked: Any, lengths: Lengths) -> dict[str, Any]:
    """Rows of each split, optimizer steps of the run, and how long the rows to train on are."""
    import math
    from dataclasses import asdict

    rows = {split: table.num_rows for split, table in checked.dataset.splits.items()}
    examples = math.ceil(rows["train"] * lengths.examples / lengths.rows)
    steps = math.ceil(examples / checked.spec.train.batch_size) * checked.spec.train.epochs
    return {**rows, "steps": steps, "lengths": asdict(lengths)}
