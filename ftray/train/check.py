"""Checks the inputs of a run before Ray starts, without torch and without loading the model."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.data.dataset import Dataset, read_dataset
from ftray.data.groups import groups_of
from ftray.models.artifact.groups import Groups
from ftray.models.pretrained import check_pretrained, most_tokens
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root, open_root
from ftray.store.runs.notify import check_notify
from ftray.store.tracking.trackers import check_tracking
from ftray.train.engine.deepspeed_config import check_deepspeed


@dataclass(frozen=True)
class ValidatedSpec:
    """A spec with usable inputs, and the objects that the check has opened or read."""

    spec: Spec
    root: Root
    registry: Registry
    dataset: Dataset
    groups: Groups | None = None
    """The groups of the test rows, by data.group."""


def check_inputs(spec: Spec) -> ValidatedSpec:
    """Check the storage, the DeepSpeed JSON, the base model's files, the registry and the data.

    Leaves no files in the storage. Raises FtrayError at the first problem.
    """
    root = open_root(spec.storage)
    root.check_writable()
    check_tracking(spec, root)
    check_notify(spec)
    fewest, most = spec.scale.fewest_workers, spec.scale.most_workers
    check_deepspeed(spec.train, fewest if fewest == most else None)
    spec = _within_positions(spec)
    check_pretrained(spec.model, spec.data.max_length)
    dataset = read_dataset(spec)
    column = spec.data.group
    groups = groups_of(dataset.splits["test"], column, "data.group") if column else None
    registry = Registry(root)
    registry.check()
    root = root.patient()  # the storage works: from now on wait for the end of an outage
    return ValidatedSpec(_with_absolute_paths(spec), root, Registry(root), dataset, groups)


def _within_positions(spec: Spec) -> Spec:
    """Lower data.max_length of a generating task to the model's number of positions, if the spec
    has the task's default length and the model has fewer positions."""
    default = spec.info.max_length
    if not spec.info.generates or spec.data.max_length != default:
        return spec
    limit = most_tokens(spec.model)
    if limit is None or limit > default:
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": limit})})


def _with_absolute_paths(spec: Spec) -> Spec:
    """Make local paths in the spec absolute, as each worker runs in another working directory."""
    model = spec.model
    if "://" not in model.name_or_path and (folder := locate(model.name_or_path)).exists():
        model = model.model_copy(update={"name_or_path": folder.path})
    train = spec.train
    if isinstance(train.deepspeed, str) and "://" not in train.deepspeed:
        train = train.model_copy(update={"deepspeed": locate(train.deepspeed).path})
    return spec.model_copy(update={"model": model, "train": train})
