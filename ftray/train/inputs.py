"""The inputs of a run beside its spec: what they are now, and what an unfinished run began with."""

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
    """With the commit of a Hub model in place of its revision: the one that the unfinished run of
    this very spec began with, else what the Hub says now. Raises ModelError and StorageError."""
    run = unfinished(checked.root, checked.spec, kind)
    before = run.inputs if run is not None else None
    known = before.base_commit if before is not None else ""
    model = checked.spec.model
    asked = model.model_copy(update={"revision": known}) if known else model
    commit = find_pretrained(asked).commit
    if commit is None:
        return checked
    spec = checked.spec.model_copy(update={"model": model.model_copy(update={"revision": commit})})
    return replace(checked, spec=spec)


def inputs_of(checked: ValidatedSpec) -> Inputs:
    """Raises ModelError and SpecError."""
    pretrained, dataset = find_pretrained(checked.spec.model), checked.dataset
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
    """The run of the spec `asked` for, now owned by this process: see `claim_run`. `checked`: the
    same `pinned`."""
    return claim_run(checked.root, asked.spec, kind, checked.spec, inputs_of(checked), say)


def with_own_deepspeed(spec: Spec, run: RunFolder) -> Spec:
    """The spec for the run's workers: they read the DeepSpeed JSON that the run began with from its
    folder, so that none lacks it and none sees a later edit."""
    inputs = run.inputs
    if inputs is None or spec.train.deepspeed != inputs.deepspeed_file:
        return spec
    file = run.location / _DEEPSPEED
    file.write_json(inputs.deepspeed)
    return spec.model_copy(update={"train": spec.train.model_copy(update={"deepspeed": file.url})})
