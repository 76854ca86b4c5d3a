"""Exports a checkpoint as a model folder with merged weights, test metrics and golden answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftray import __version__
from ftray.cluster.device import own_device
from ftray.cluster.node import naming_this_node
from ftray.data.encoding.encode import EncodedSplit
from ftray.errors import masked
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.artifact.origin import hub_id, license_of
from ftray.models.artifact.publish import publish, staged, write_info
from ftray.models.inference.loaded import LoadedModel
from ftray.models.inference.measure import Measured, measure
from ftray.models.limits import context, load_fitting
from ftray.models.load import load_model
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.placing import placed
from ftray.spec.schema import ModelSpec
from ftray.store.files.location import locate
from ftray.tasks import get_task
from ftray.tasks.base import Metrics
from ftray.tasks.per_label import LabelScore, label_scores
from ftray.train.distributed.context import DistContext
from ftray.train.engine import lora, state
from ftray.train.evaluation.baselines import Baselines, Encoder
from ftray.train.evaluation.golden import golden_texts
from ftray.train.evaluation.significance import Spent, measure_worth
from ftray.train.orders import Export

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH = 32


@naming_this_node()
def export(order: Export) -> ModelInfo:
    """Write the model folder. The metrics come from the exported model itself, loaded again from
    the staged folder.

    Only the export reads the test split.
    """
    spec = order.spec
    pretrained, task = find_pretrained(spec.model), get_task(spec.task)
    loaded = load_fitting(pretrained, task, order.data.labels, spec.seed)
    model, tokenizer = loaded.model, loaded.tokenizer
    baselines = Baselines.read(order.baselines) if order.baselines else None
    probed = _probed(order, baselines, model) if baselines else None
    measures_base = spec.train.baselines and not task.info.linear_probe
    untrained = {"base_model": _of_base(order, model)} if measures_base else {}
    with order.checkpoint.as_local() as checkpoint:
        values = state.trained_values(checkpoint)
    adapter = _load(order, model, values)
    longest = spec.data.max_length
    with staged(
        model, tokenizer, context(model.config, longest) if task.info.generates else longest
    ) as staging:
        if adapter is not None:
            adapter.write(staging / lora.ADAPTER)
        info = ModelInfo(
            name=spec.name,
            run=order.run,
            task=spec.task,
            labels=order.data.labels,
            max_length=spec.data.max_length,
            base=ModelSpec(**masked(spec.model.model_dump())),
            base_id=hub_id(pretrained),
            license=license_of(pretrained),
            data_digest=order.data.digest,
            spec=masked(spec.model_dump(mode="json")),
            rows={split: told.rows for split, told in order.data.lengths.items()},
            metrics={},
            golden=(),
            trials=order.trials,
            ftray_version=__version__,
        )
        write_info(staging, info)
        trusts = spec.model.trust_remote_code
        trained = load_model(locate(str(staging)), trust_remote_code=trusts)
        validation, test = order.data.load("validation"), order.data.load("test")
        measured = {"validation": _measure(trained, validation), "test": _measure(trained, test)}
        metrics = {split: found.metrics for split, found in measured.items()} | untrained
        labels, tuned = order.data.labels, measured["test"].predicted
        scores = {
            "validation": _scores(measured["validation"], validation, labels),
            "test": _scores(measured["test"], test, labels),
        }
        worth = None
        if baselines is not None and probed is not None and tuned is not None:
            classes, spent = len(labels), _spent(order)
            worth = measure_worth(
                test.targets, baselines.majority, probed, tuned, classes, spent, spec.seed
            )
        golden = trained.golden(golden_texts(spec, test, tokenizer))
        info = info.model_copy(update={"metrics": metrics, "golden": golden, "baselines": worth})
        return publish(staging, info, order.target, scores)


def _load(
    order: Export, model: PreTrainedModel, values: dict[str, torch.Tensor]
) -> lora.Adapter | None:
    """Load the trained values into the base model, and merge LoRA adapters into its weights.
    Returns a copy of the adapters if the model folder is to contain them too."""
    spec = order.spec
    if spec.train.lora is None:
        state.load_values(model, values)
        return None
    tuner = lora.inject(model, spec)
    state.load_values(model, values)
    adapter = None
    if spec.train.lora.adapter:
        rows, pad_id = order.data.load("test"), model.config.pad_token_id
        sample = get_task(spec.task).collate([rows.ids_of(0)], pad_id)
        adapter = lora.take_adapter(tuner, sample)
    tuner.merge_and_unload()
    return adapter


def _measure(model: LoadedModel, rows: EncodedSplit) -> Measured:
    return model.measure([rows.ids_of(row) for row in range(len(rows))], rows.targets)


def _scores(measured: Measured, rows: EncodedSplit, labels: Sequence[str]) -> list[LabelScore]:
    """Return the model's scores for each label on a split; empty for a task without labels."""
    if measured.predicted is None:
        return []
    return list(label_scores(rows.targets, measured.predicted, labels))


def _probed(order: Export, baselines: Baselines, model: Any) -> np.ndarray:
    """Return the linear probe's predictions for the test split. Call this function before the
    trained values are loaded into `model`, as the probe uses features of the base model."""
    task, pad_id = get_task(order.spec.task), model.config.pad_token_id
    encoder = Encoder(model, task, pad_id, DistContext(0, 1, own_device()))
    return baselines.answers(encoder, order.data.load("test"))


def _of_base(order: Export, model: Any) -> Metrics:
    """Return the metrics of the base model on the test split. Call this function before the trained
    values are loaded into `model`."""
    task, test, labels = get_task(order.spec.task), order.data.load("test"), order.data.labels
    ids = [test.ids_of(row) for row in range(len(test))]
    with placed(model.eval(), own_device()):
        found = measure(model, task, ids, test.targets, labels, model.config.pad_token_id, _BATCH)
    return found.metrics


def _spent(order: Export) -> Spent:
    scale, tune = order.spec.scale, order.spec.tune
    busy = order.seconds * scale.most_workers
    if tune is not None:
        busy += tune.workers * sum(trial["seconds"] for trial in order.trials)
    return Spent(order.seconds, busy / 3600, scale.price_per_worker_hour)
