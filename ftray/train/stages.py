"""Trains the stages of a spec, one after the other, and gives the run the last one's model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ftray.spec.schema import ModelSpec
from ftray.store.files.location import Location
from ftray.store.runs.claim import finished
from ftray.train.check import ValidatedSpec, check_inputs
from ftray.train.distributed.events import Listener
from ftray.train.inputs import inputs_of, pinned
from ftray.train.run import train


def after_stages(
    checked: ValidatedSpec,
    say: Callable[[str], None] = lambda line: None,
    listener: Listener = lambda event: None,
) -> ValidatedSpec:
    """Train the stages of the spec, and return the spec with the last one's model as its base.

    All stages are checked before the first is trained. A stage that an earlier run of the same spec
    has trained is not trained again; a stage that was cut off goes on. Needs Ray. Raises
    FtrayError.
    """
    spec = checked.spec
    stages = [check_inputs(stage) for stage in spec.staged]
    model = spec.model
    for number, (stage, ready) in enumerate(zip(spec.stages, stages, strict=True), 1):
        say(f"stage {number} of {len(stages)}, {stage.name}: {ready.spec.task}")
        of_stage = replace(ready, spec=ready.spec.model_copy(update={"model": model}))
        folder = _known(of_stage, say) or train(of_stage, say, listener).version.folder
        model = ModelSpec(name_or_path=folder.url)
    return replace(checked, spec=spec.model_copy(update={"model": model, "stages": ()}))


def _known(checked: ValidatedSpec, say: Callable[[str], None]) -> Location | None:
    """Return the folder of the model that an earlier run of the stage has made."""
    inputs = inputs_of(pinned(checked, "train"))
    run = finished(checked.root, checked.spec, inputs)
    if run is None:
        return None
    found = [version for version in checked.registry.versions(checked.spec.name)
             if version.version == run.status.version and version.folder.is_dir()]  # fmt: skip
    if not found:
        return None
    say(f"{found[0].reference} is trained already, by run {run.run_id}")
    return found[0].folder
