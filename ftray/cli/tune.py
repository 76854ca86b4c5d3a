"""`ftray tune SPEC`."""

from __future__ import annotations

from ftray.cli.console import AsJson, Set, SpecPath, say, verb
from ftray.cli.train import Promote, show_trained, with_promote


@verb
def tune(
    spec: SpecPath, overrides: Set = None, promote: Promote = None, as_json: AsJson = False
) -> None:
    """Sweep over the spec's search space, then train the winner at full scale and register it."""
    from ftray.cli.display.progress import RunDisplay
    from ftray.cli.display.sweep_tables import show_depths, show_trials
    from ftray.cluster.connection import starting
    from ftray.errors import SpecError
    from ftray.interrupt import acknowledged
    from ftray.spec.load import load
    from ftray.train.check import check_inputs

    loaded = load(spec, with_promote(overrides, promote), say)
    if loaded.tune is None:
        raise SpecError.of("tune", None, "missing", "add a tune section; `ftray init` shows one")
    with (
        RunDisplay(loaded.train.log_every) as display,
        acknowledged(display.acknowledge),
        starting("transformers.modeling_utils", "ftray.tune.sweep") as connected,
    ):
        display.stage("reading the data", at_once=False)  # a wrong input prints one line
        checked = check_inputs(loaded)
        display.stage("starting Ray")
        connected()
        from ftray.train.stages import after_stages
        from ftray.tune.sweep import tune as run

        whole = after_stages(checked, display.say, display.listen)
        tuned = run(whole, display.say, display.listen)
        display.stage("stopping Ray")
    show_trials(say, display.width, loaded.train.metric, tuned.trials)
    show_depths(say, display.width, loaded.train.metric, tuned.depths)
    show_trained(tuned.to_json(), as_json)
