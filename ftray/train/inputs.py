"""The inputs of a run beside its spec: their current versions, and those of an unfinished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import Spec
from ftray.store.runs.claim import claim_run, unfinished
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.inputs import Inputs
from ftray.store.runs.status import Kind
from ftray.train.check import ValidatedSpec
from ftray.train.engine.deepspeed_config import read_json

_DEEPSPEED = "deepspeed.json"


def pinned(checked: ValidatedSpec, kind: Kind) -> ValidatedSpec:
    """Replace the revision of a Hub model by a commit: the commit with which the unfinished run of
    the identical spec began, else the Hub's current one. Raises ModelError and StorageError."""
    run = unfinished(checked.root, checked.spec, kind)
    before = run.inputs if run is not None else None
    known = before.base_commit if before is not None else ""
    model = checked.spec.model
    asked = model.model_copy(update={"revision": known}) if known else model
    commit = find_pretrained(asked, checked.dataset.schema).commit
    if commit is None:
        return checked
    spec = checked.spec.model_copy(update={"model": model.model_copy(update={"revision": commit})})
    return replace(checked, spec=spec)


def inputs_of(checked: ValidatedSpec) -> Inputs:
    """Return the current inputs of the run. Raises ModelError and SpecError."""
    dataset = checked.dataset
    pretrained = find_pretrained(checked.spec.model, dataset.schema)
    commit = pretrained.commit
    file = checked.spec.train.deepspeed
    return Inputs(
        data_digest=dataset.digest,
        rows={name: rows.num_rows for name, rows in dataset.splits.items()},
        base_commit=commit or "",
        base_digest="" if commit else pretrained.digest(),
        deepspeed=read_json(file) if isinstance(file, str) else None,
        deepspeed_file=file if isinstance(file, str) else "",
    )


def claimed(
    asked: ValidatedSpec, checked: ValidatedSpec, kind: Kind, say: Callable[[str], None]
) -> RunFolder:
    """Take ownership of the unfinished run of the spec `asked`, or of a new run: see `claim_run`.
    `checked`: the result of `pinned` for `asked`."""
    return claim_run(checked.root, asked.spec, kind, checked.spec, inputs_of(checked), say)


def with_own_deepspeed(spec: Spec, run: RunFolder) -> Spec:
    """Return the spec for the run's workers. It names a copy in the run's folder of the DeepSpeed
    JSON with which the run began, so that every node can read it and later edits have no effect."""
    inputs = run.inputs
    if inputs is None or spec.train.deepspeed != inputs.deepspeed_file:
        return spec
    file = run.location / _DEEPSPEED
    file.write_json(inputs.deepspeed)
    return spec.model_copy(update={"train": spec.train.model_copy(update={"deepspeed": file.url})})
