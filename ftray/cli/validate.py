"""`ftray validate SPEC`."""

from __future__ import annotations

from typing import Any

import typer

from ftray.cli.console import AsJson, Set, SpecPath, emit, say, verb


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
    estimate = _estimate(checked)
    if not as_json:
        for line in checked.dataset.report.lines():
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


def _estimate(checked: Any) -> dict[str, int]:
    """Rows of each split and optimizer steps of the run."""
    import math

    rows = {split: table.num_rows for split, table in checked.dataset.splits.items()}
    steps = math.ceil(rows["train"] / checked.spec.train.batch_size) * checked.spec.train.epochs
    return {**rows, "steps": steps}
