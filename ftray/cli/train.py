"""`ftray train SPEC`."""

from __future__ import annotations

from typing import Any

from ftray.cli.console import AsJson, Set, SpecPath, emit, say, verb
from ftray.cli.table import headline


@verb
def train(spec: SpecPath, overrides: Set = None, as_json: AsJson = False) -> None:
    """Fine-tune, evaluate and register a model; a run that was cut off goes on where it was."""
    from ftray.cluster import session
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    checked = check_inputs(load(spec, overrides or (), say))
    with session("transformers.modeling_utils", "ftray.train.run"):
        from ftray.cli.progress import TrainDisplay
        from ftray.train.run import train as run

        with TrainDisplay() as display:
            trained = run(checked, display.say, display.listen)
    show_trained(trained.to_json(), as_json)


def show_trained(result: dict[str, Any], as_json: bool) -> None:
    """The end of `train` and `tune`: JSON for programs, or name and metrics for people."""
    if as_json:
        emit(result)
        return
    reference = f"{result['model']}:{result['version']}"
    splits = dict(result["metrics"])
    baselines = splits.pop("baselines", None)
    for split, metrics in splits.items():
        say(f"{split:10}  {headline(metrics)}")
    if baselines is not None:
        from ftray.models.worth import Worth

        for line in Worth.model_validate(baselines).lines():
            say(line)
    say(f"{reference} lies in {result['model_dir']}; next: ftray serve {reference}")
    print(reference)
