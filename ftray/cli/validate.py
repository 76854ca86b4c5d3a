"""`ftray validate SPEC`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import AsJson, Set, SpecPath, emit, say, verb

if TYPE_CHECKING:
    from ftray.data.encoding.lengths import Lengths
    from ftray.train.memory.hardware import Gpus


@verb
def validate(
    spec: SpecPath,
    overrides: Set = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="NxNAME", help="Estimate for these GPUs: 8xH100.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check spec, storage, data and base model; writes nothing and starts nothing."""
    from ftray.errors import FtrayError

    try:
        estimate = _examine(spec, overrides or [], gpus, as_json)
    except FtrayError as error:
        if not as_json:
            raise
        emit({"ok": False, "problems": [problem.to_json() for problem in error.problems]})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        emit({"ok": True, "problems": [], "estimate": estimate})
    else:
        print("ok")


def _examine(path: str, overrides: list[str], gpus: str | None, as_json: bool) -> dict[str, Any]:
    """Estimate a run: rows of each split, optimizer steps, lengths of rows, memory. Prints each as
    it is found; with `as_json` only the memory, to stderr. Raises FtrayError for every fault that
    would keep a run from starting."""
    from ftray.data.cleaning.report import in_words
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    wanted = None
    if gpus is not None:
        from ftray.train.memory.hardware import Gpus

        wanted = Gpus.of(gpus)
        overrides = [*overrides, f"scale.workers={wanted.count}", "scale.gpus_per_worker=1"]
    checked = check_inputs(load(path, overrides, say))
    stages = [check_inputs(stage) for stage in checked.spec.staged]
    if not as_json:
        for stage in stages:
            say(f"stage {stage.spec.name}:")
            _say_each(stage.dataset.report.lines())
        _say_each(checked.dataset.report.lines())
        _say_each(checked.dataset.schema.lines())
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
    reads = checked.spec.train.reads(estimate["train"])
    tokens = round(estimate["train"] * lengths.mean * reads)
    return {**estimate, **_needs(checked, wanted, tokens)}


def _needs(checked: Any, gpus: Gpus | None, tokens: int) -> dict[str, Any]:
    """Print and return the memory that a worker needs, and with `gpus` the time that reading
    `tokens` tokens takes; None where these cannot be estimated."""
    from ftray.errors import NoEstimate
    from ftray.train.memory.preflight import forecast

    try:
        found = forecast(checked.spec, checked.dataset.schema, gpus)
    except NoEstimate as error:
        say(f"memory not estimated: {error}")
        return {"memory": None}
    _say_each(found.lines())
    if gpus is None or not tokens or found.trace is None:
        return {"memory": found.to_json()}
    from ftray.train.memory.hardware import duration

    time = duration(checked.spec, found.trace, tokens, gpus)
    say(time.line())
    return {"memory": found.to_json(), "duration": time.to_json()}


def _lengths(checked: Any) -> tuple[Lengths, dict[int, str]]:
    """Measure the lengths of a sample of the training rows, and find its rows without examples."""
    from ftray.data.encoding.lengths import estimate_lengths
    from ftray.data.encoding.rejected import without_rejected
    from ftray.models.limits import setup_of
    from ftray.models.pretrained import described
    from ftray.models.transformers_output import quiet_transformers
    from ftray.tasks import get_task

    spec, dataset = checked.spec, checked.dataset
    with quiet_transformers(), described(spec.model, dataset.schema) as pretrained:
        setup = setup_of(pretrained, spec, dataset.schema)
        lengths, rejected = estimate_lengths(dataset.splits["train"], get_task(spec.task), setup)
        without_rejected(dataset, {"train": rejected}, spec)
        return lengths, rejected


def _estimate(checked: Any, lengths: Lengths) -> dict[str, Any]:
    """Return rows of each split, optimizer steps of the run, and lengths of the training rows."""
    rows = {split: table.num_rows for split, table in checked.dataset.splits.items()}
    examples = math.ceil(rows["train"] * lengths.examples / lengths.rows)
    train = checked.spec.train
    steps = train.epochs * (train.steps_per_epoch or math.ceil(examples / train.batch_size))
    return {**rows, "steps": steps, "lengths": asdict(lengths)}


def _say_each(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)
