"""`ftray train SPEC`."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import AsJson, Set, SpecPath, emit, say, verb

if TYPE_CHECKING:
    from ftray.spec.schema import Spec
    from ftray.train.ray.local_worker import LocalWorker


Promote = Annotated[
    str | None,
    typer.Option(
        metavar="ALIAS",
        help="Else train.promote: an alias for the model, unless the version that has it does "
        "better on the same validation rows.",
        show_default=False,
    ),
]


@verb
def train(
    spec: SpecPath, overrides: Set = None, promote: Promote = None, as_json: AsJson = False
) -> None:
    """Fine-tune, evaluate and register a model; a run that was cut off goes on where it was."""
    from ftray.cli.display.progress import RunDisplay
    from ftray.cluster.connection import starting
    from ftray.interrupt import acknowledged
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    loaded = load(spec, with_promote(overrides, promote), say)
    with (
        RunDisplay(loaded.train.log_every) as display,
        acknowledged(display.acknowledge),
        starting("ftray.train.run", then=partial(_ahead, loaded)) as connected,
    ):
        display.stage("reading the data", at_once=False)  # a wrong input prints one line
        checked = check_inputs(loaded)
        display.stage("starting Ray")
        worker = connected()
        from ftray.train.run import train as run
        from ftray.train.stages import after_stages

        whole = after_stages(checked, display.say, display.listen)
        trained = run(whole, display.say, display.listen, worker)
        display.stage("stopping Ray")
    show_trained(trained.to_json(), as_json)


def _ahead(spec: Spec) -> LocalWorker | None:
    """Start the process that is to train, as soon as Ray runs. Where Ray Train starts other
    processes on this machine instead, this process encodes and exports, so import here what that
    needs."""
    from ftray.cluster.connection import is_this_machine
    from ftray.train.ray.local_worker import LocalWorker

    # The stages before the run take the place of the worker.
    worker = LocalWorker.of(spec) if not spec.stages else None
    if worker is None and is_this_machine():
        import_module("transformers.modeling_utils")
    return worker


def with_promote(overrides: list[str] | None, alias: str | None) -> list[str]:
    """Return the overrides that --set and --promote stand for."""
    return [*(overrides or ()), *([] if alias is None else [f"train.promote={alias}"])]


def show_trained(result: dict[str, Any], as_json: bool) -> None:
    """Print the result of `train` or `tune`: JSON for programs, or name and metrics for people."""
    from ftray.cli.display.table import headline

    if as_json:
        emit(result)
        return
    reference = f"{result['model']}:{result['version']}"
    splits = dict(result["metrics"])
    baselines = splits.pop("baselines", None)
    for split, metrics in splits.items():
        say(f"{split:10}  {headline(metrics)}")
    if baselines is not None:
        from ftray.models.artifact.worth import Worth

        for line in Worth.model_validate(baselines).lines():
            say(line)
    for name in ("report", "model_dir"):
        if result.get(name):
            say(f"{name.removesuffix('_dir'):10}  {_path(result[name])}")
    say(f"{'next':10}  ftray serve {reference}")
    print(reference)


def _path(url: str) -> str:
    """Shorten a path for copying: relative to the working directory where it lies below that."""
    from pathlib import Path

    path = Path(url.removeprefix("file://"))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else url
