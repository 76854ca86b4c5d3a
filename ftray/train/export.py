"""Exports a checkpoint as a model folder with merged weights, test metrics and golden answers."""

from __future__ import annotations

from collections.abc import Sequence

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
from ftray.models.limits import Loaded, context, load_fitting
from ftray.models.load import load_model
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.placing import placed
from ftray.spec.schema import ModelSpec
from ftray.store.files.location import locate
from ftray.tasks import get_task
from ftray.tasks.base import Metrics
from ftray.tasks.per_label import LabelScore, label_scores
from ftray.tasks.schema import Schema
from ftray.train.distributed.context import DistContext
from ftray.train.engine import lora, state
from ftray.train.evaluation.baselines import Baselines, Encoder
from ftray.train.evaluation.golden import golden_questions
from ftray.train.evaluation.significance import Spent, answers_of, measure_worth
from ftray.train.orders import Export

_BATCH = 32


@naming_this_node()
def export(order: Export) -> ModelInfo:
    """Write the model folder. The metrics come from the exported model itself, loaded again from
    the staged folder.

    Only the export reads the test split.
    """
    spec = order.spec
    pretrained, task = find_pretrained(spec.model), get_task(spec.task)
    # train.dropout is for the training alone: the model folder has the base model's dropouts.
    plain = spec.model_copy(update={"train": spec.train.model_copy(update={"dropout": None})})
    loaded = load_fitting(pretrained, plain, order.data.schema)
    model, setup = loaded.model, loaded.setup
    baselines = Baselines.read(order.baselines) if order.baselines else None
    probed = _probed(order, baselines, loaded) if baselines else None
    measures_base = spec.train.baselines and not task.info.linear_probe
    untrained = {"base_model": _of_base(order, loaded)} if measures_base else {}
    with order.checkpoint.as_local() as checkpoint:
        values = state.trained_values(checkpoint)
    adapter = _load(order, loaded, values)
    longest = spec.data.max_length
    with staged(
        model, setup.processor, context(model.config, longest) if task.info.generates else longest
    ) as staging:
        if adapter is not None:
            adapter.write(staging / lora.ADAPTER)
        info = ModelInfo(
            name=spec.name,
            run=order.run,
            task=spec.task,
            labels=order.data.schema.labels,
            scale=order.data.schema.scale,
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
        scores = {split: _scores(found, setup.labels) for split, found in measured.items()}
        worth = None
        if baselines is not None and probed is not None:
            truth, tuned = _targets(measured["test"], setup.schema)
            predictions = (baselines.constants(len(test)), probed, tuned)
            answers = answers_of(setup.schema, truth, predictions)
            worth = measure_worth(answers, spec.info, _spent(order), len(test), spec.seed)
        golden = trained.golden(golden_questions(spec, order.data, setup))
        info = info.model_copy(update={"metrics": metrics, "golden": golden, "baselines": worth})
        return publish(staging, info, order.target, scores)


def _load(order: Export, loaded: Loaded, values: dict[str, torch.Tensor]) -> lora.Adapter | None:
    """Load the trained values into the base model, and merge LoRA adapters into its weights.
    Returns a copy of the adapters if the model folder is to contain them too."""
    spec, model = order.spec, loaded.model
    if spec.train.lora is None:
        state.load_values(model, values)
        return None
    tuner = lora.inject(model, spec)
    state.load_values(model, values)
    adapter = None
    if spec.train.lora.adapter:
        sample = order.data.load("test").examples([0])
        inputs = get_task(spec.task).collate(loaded.setup, sample).inputs
        adapter = lora.take_adapter(tuner, inputs)
    tuner.merge_and_unload()
    return adapter


def _measure(model: LoadedModel, split: EncodedSplit) -> Measured:
    with model.inference():
        return measure(model.model, model.task, model.setup, split, model.device, _BATCH)


def _scores(measured: Measured, labels: Sequence[str]) -> list[LabelScore]:
    """Return the model's scores for each label on a split; empty for a task without labels."""
    if not labels:
        return []
    return list(label_scores(measured.truth, measured.predicted, labels))


def _targets(measured: Measured, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Return the right answers and the predictions as `answers_of` takes them."""
    if schema.scale is None:
        return measured.truth, measured.predicted
    parts = ([judged.truth for judged in measured.judged], [j.prediction for j in measured.judged])
    truth, predicted = (np.array(part, np.float64).reshape(len(part), -1) for part in parts)
    return schema.scale.standardized(truth), schema.scale.standardized(predicted)


def _probed(order: Export, baselines: Baselines, loaded: Loaded) -> np.ndarray:
    """Return the linear probe's predictions for the test split. Call this function before the
    trained values are loaded into the model, as the probe uses features of the base model."""
    ranks = DistContext(0, 1, own_device())
    encoder = Encoder(loaded.model, get_task(order.spec.task), loaded.setup, ranks)
    return baselines.answers(encoder, order.data.load("test"))


def _of_base(order: Export, loaded: Loaded) -> Metrics:
    """Return the metrics of the base model on the test split. Call this function before the trained
    values are loaded into the model."""
    task, test, device = get_task(order.spec.task), order.data.load("test"), own_device()
    with placed(loaded.model.eval(), device):
        return measure(loaded.model, task, loaded.setup, test, device, _BATCH).metrics


def _spent(order: Export) -> Spent:
    scale, tune = order.spec.scale, order.spec.tune
    busy = order.seconds * scale.most_workers
    if tune is not None:
        busy += tune.workers * sum(trial["seconds"] for trial in order.trials)
    return Spent(order.seconds, busy / 3600, scale.price_per_worker_hour)
