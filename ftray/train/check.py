"""What can be known of a run before Ray starts and without torch or the model."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.data.dataset import Dataset, read_dataset
from ftray.models.pretrained import check_pretrained, most_tokens
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root, open_root
from ftray.train.engine.deepspeed_config import check_deepspeed


@dataclass(frozen=True)
class ValidatedSpec:
    """A spec whose inputs were found to be usable, and what was read on the way."""

    spec: Spec
    root: Root
    registry: Registry
    dataset: Dataset


def check_inputs(spec: Spec) -> ValidatedSpec:
    """Storage, DeepSpeed JSON, base model's files, registry and data. Writes nothing.

    Raises FtrayError at the first fault.
    """
    root = open_root(spec.storage)
    root.check_writable()
    fewest, most = spec.scale.fewest_workers, spec.scale.most_workers
    check_deepspeed(spec.train, fewest if fewest == most else None)
    spec = _within_positions(spec)
    check_pretrained(spec.model, spec.data.max_length)
    dataset = read_dataset(spec)
    registry = Registry.open(root)
    registry.check()
    root = root.patient()  # it answered: an outage from here on is bridged
    return ValidatedSpec(_with_absolute_paths(spec), root, Registry.open(root), dataset)


def _within_positions(spec: Spec) -> Spec:
    """The spec with the length that a generating task has unless told lowered to what its model has
    positions for."""
    default = spec.info.max_length
    if not spec.info.generates or spec.data.max_length != default:
        return spec
    limit = most_tokens(spec.model)
    if limit is None or limit > default:
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": limit})})


def _with_absolute_paths(spec: Spec) -> Spec:
    """The spec with local paths made absolute: workers run in folders of their own."""
    model = spec.model
    if "://" not in model.name_or_path and (folder := locate(model.name_or_path)).exists():
        model = model.model_copy(update={"name_or_path": folder.path})
    train = spec.train
    if isinstance(train.deepspeed, str) and "://" not in train.deepspeed:
        train = train.model_copy(update={"deepspeed": locate(train.deepspeed).path})
    return spec.model_copy(update={"model": model, "train": train})
