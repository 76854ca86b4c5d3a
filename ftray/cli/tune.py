"""`ftray tune SPEC`."""

from __future__ import annotations

from ftray.cli.console import AsJson, Set, SpecPath, say, verb
from ftray.cli.train import show_trained


@verb
def tune(spec: SpecPath, overrides: Set = None, as_json: AsJson = False) -> None:
    """Sweep over the spec's search space, then train the winner at full scale and register it."""
    from ftray.cluster import session
    from ftray.errors import SpecError
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    loaded = load(spec, overrides or (), say)
    if loaded.tune is None:
        raise SpecError.of("tune", None, "missing", "add a tune section; `ftray init` shows one")
    checked = check_inputs(loaded)
    with session("transformers.modeling_utils", "ftray.tune.sweep"):
        from ftray.cli.progress import TrainDisplay, show_depths, show_trials
        from ftray.tune.sweep import tune as run

        with TrainDisplay() as display:
            tuned = run(checked, display.say, display.listen)
        show_trials(display.console, tuned.trials)
        show_depths(display.console, loaded.train.metric, tuned.depths)
    show_trained(tuned.to_json(), as_json)
