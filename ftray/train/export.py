"""Exports a checkpoint as a model folder with merged weights, test metrics and golden answers.

All ranks of a worker group export together: rank 0 writes the weights into the model folder, every
rank loads them from there and evaluates its share of the splits, and rank 0 writes the manifest.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ftray import __version__
from ftray.cluster.device import own_device
from ftray.cluster.node import naming_this_node
from ftray.data.cleaning.report import CleaningReport
from ftray.data.encoding.encode import EncodedSplit
from ftray.errors import masked
from ftray.models.artifact.manifest import Golden, ModelInfo
from ftray.models.artifact.origin import hub_id, license_of
from ftray.models.artifact.publish import finish, place, staged, write_json
from ftray.models.artifact.worth import Worth
from ftray.models.inference.loaded import LoadedModel, Unfinished
from ftray.models.inference.measure import Measured, Split, measure
from ftray.models.inference.reference import Columns, given_by
from ftray.models.inference.significance import Spent, answers_of, measure_worth
from ftray.models.limits import Loaded, context, load_fitting
from ftray.models.load import load_model
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.placing import placed
from ftray.models.structure.quantized import restore
from ftray.reports.test_rows import TestRows
from ftray.spec.schema import ModelSpec
from ftray.tasks import get_task
from ftray.tasks.base import Metrics
from ftray.tasks.per_label import LabelScore, label_scores
from ftray.tasks.schema import Schema
from ftray.train.distributed.context import DistContext
from ftray.train.engine import lora, state
from ftray.train.engine.deepspeed_config import shards_weights
from ftray.train.engine.partition import sharded
from ftray.train.evaluation.average import Values
from ftray.train.evaluation.baselines import Baselines, Encoder
from ftray.train.evaluation.finishing import Finished, Finisher, best_values
from ftray.train.evaluation.golden import golden_questions
from ftray.train.evaluation.groups import measured_groups
from ftray.train.orders import Export

_BATCH = 32


class _Untrained(NamedTuple):
    """Results of the base model. metrics: its own on the test split, empty where a linear probe
    stands for it; baselines, probed: the fitted baselines and the probe's predictions."""

    metrics: dict[str, Metrics]
    baselines: Baselines | None = None
    probed: np.ndarray | None = None
    given: Mapping[str, Columns] = {}
    """Split -> what the base model gives for its examples, for a task that compares with it."""


def solo() -> DistContext:
    """Return the context of a process that exports alone, without a process group."""
    return DistContext(0, 1, own_device())


@naming_this_node()
def export(
    order: Export, ranks: DistContext, stage: Callable[[str], None] = lambda name: None
) -> None:
    """Write the model folder. Every one of `ranks` must call this function.

    The metrics come from the exported model, loaded from the model folder. Only the export reads
    the test split. stage: called at each stage of the work; its exceptions end the export, which
    then leaves no manifest.
    """
    spent = _spent(order)
    gc.collect()  # a DeepSpeed engine that has ended holds its tensors in a cycle of references
    spec, shards = order.spec, shards_weights(order.spec.train, ranks.world)
    untrained = _of_base(order, ranks, stage)
    values = _finished(order, ranks, untrained, stage)
    stage("exporting: writing the model")
    info = ranks.gather(_written(order, shards, values) if ranks.rank == 0 else None)[0]
    with _trained(order, info, ranks) as trained:
        stage("exporting: evaluating on the validation split")
        splits = {n: order.data.load(n) for n in ("validation", "test")}
        splits = {n: split.having(untrained.given.get(n, {})) for n, split in splits.items()}
        measured = {"validation": _measure(trained, splits["validation"], ranks)}
        fitted = trained.task.tuned(measured["validation"].gathered, info.fitted)
        if fitted != info.fitted:
            info = info.model_copy(update={"thresholds": fitted.thresholds})
            loaded = (trained.model, replace(trained.setup, schema=fitted))
            trained = load_model(order.target, unfinished=Unfinished(info, loaded))
            measured = {"validation": _measure(trained, splits["validation"], ranks)}
        stage("exporting: evaluating on the test split")
        measured["test"] = _measure(trained, splits["test"], ranks, detailed=True)
        groups = measured_groups(
            order, splits["test"], lambda part: _measure(trained, part, ranks).metrics
        )
        stage("exporting: golden answers")
        golden: tuple[Golden, ...] = ()
        if ranks.rank == 0 or shards:  # passes of a sharded model need all ranks
            golden = trained.golden(golden_questions(spec, order.data, trained.setup))
    if ranks.rank == 0:
        metrics = {name: each.metrics for name, each in measured.items()} | untrained.metrics
        worth = _worth(order, untrained, measured["test"], spent)
        found = {"metrics": metrics, "golden": golden, "baselines": worth, "groups": groups}
        labels = info.labels if info.kind.has_labels else ()
        scores = {name: _scores(each, labels) for name, each in measured.items()}
        _keep_rows(order, splits["test"], measured["test"], labels)
        finish(info.model_copy(update=found), order.target, scores)


def _base(order: Export, as_stored: bool) -> Loaded:
    # train.dropout is for the training alone: the model folder has the base model's dropouts.
    train = order.spec.train.model_copy(update={"dropout": None})
    spec = order.spec.model_copy(update={"train": train})
    pretrained = find_pretrained(spec.model, order.data.schema)
    return load_fitting(pretrained, spec, order.data.schema, as_stored)


def _of_base(order: Export, ranks: DistContext, stage: Callable[[str], None]) -> _Untrained:
    """Evaluate on the test split what the trained model is compared with, and compute what the loss
    compares it with."""
    task, device, test = get_task(order.spec.task), ranks.device, order.data.load("test")
    baselines = Baselines.read(order.baselines) if order.baselines else None
    unmeasured = baselines is None and (task.info.has_baselines or not order.spec.train.baselines)
    if unmeasured and not task.from_base:
        return _Untrained({})
    stage("exporting: evaluating the baselines on the test split")
    shards = shards_weights(order.spec.train, ranks.world)
    loaded = _base(order, shards)
    model, setup = loaded.model.eval(), loaded.setup
    with sharded(model, order.spec.train, device) if shards else placed(model, device):
        splits = {"validation": order.data.load("validation"), "test": test}
        given = {
            name: given_by(model, task, setup, split, device, _BATCH, ranks)
            for name, split in (splits if task.from_base else {}).items()
        }
        if unmeasured:
            return _Untrained({}, given=given)
        if baselines is None:
            test = test.having(given.get("test", {}))
            found = measure(model, task, setup, test, device, _BATCH, ranks)
            return _Untrained({"base_model": found.metrics}, given=given)
        probed = baselines.answers(Encoder(model, task, setup, ranks), test)
        return _Untrained({}, baselines, probed)


@contextmanager
def _trained(order: Export, info: ModelInfo, ranks: DistContext) -> Iterator[LoadedModel]:
    """Yield the exported model. Every rank loads it from the model folder; where it is too large
    for that, the ranks load what the folder was written from, in shards."""
    trusts = order.spec.model.trust_remote_code
    if not shards_weights(order.spec.train, ranks.world):
        yield load_model(order.target, trust_remote_code=trusts, unfinished=Unfinished(info))
        return
    loaded, _ = _with_values(order, as_stored=True)
    model = loaded.model.eval()
    with sharded(model, order.spec.train, ranks.device):
        whole = Unfinished(info, (model, loaded.setup))
        yield load_model(order.target, trust_remote_code=trusts, unfinished=whole)


def _with_values(
    order: Export, as_stored: bool, finished: Finished | None = None
) -> tuple[Loaded, lora.Adapter | None]:
    """Load the trained model, and the adapters that its folder is to contain."""
    loaded = _base(order, as_stored)
    return loaded, _load(order, loaded, (finished or best_values(order)).values)


def _finished(
    order: Export, ranks: DistContext, untrained: _Untrained, stage: Callable[[str], None]
) -> Finished | None:
    """Return the trained values to write; None for those of the best epoch as they are."""
    if order.spec.train.average is None and not order.spec.train.calibrate:
        return None
    split = order.data.load("validation").having(untrained.given.get("validation", {}))
    loaded = _base(order, as_stored=False)
    return Finisher(order, loaded, split, _BATCH, ranks, stage).finished()


def _written(order: Export, as_stored: bool, finished: Finished | None) -> ModelInfo:
    """Write the trained model into the model folder, without a manifest. Returns the manifest that
    lacks the metrics and the golden answers."""
    spec, task = order.spec, get_task(order.spec.task)
    pretrained = find_pretrained(spec.model, order.data.schema)
    loaded, adapter = _with_values(order, as_stored, finished)
    longest, schema = spec.data.max_length, order.data.schema
    config = loaded.model.config
    report = CleaningReport.of_json(order.data.report)
    info = ModelInfo(
        name=spec.name,
        run=order.run,
        task=spec.task,
        labels=schema.labels,
        scale=schema.scale,
        columns=schema.columns,
        decision=schema.decision,
        max_length=longest,
        embedding_size=config.hidden_size if task.info.output == "embedding" else None,
        base=ModelSpec(**masked(spec.model.model_dump())),
        base_id=hub_id(pretrained),
        license=license_of(pretrained),
        data_digest=order.data.digest,
        spec=masked(spec.model_dump(mode="json")),
        rows={split: told.rows for split, told in order.data.lengths.items()},
        rows_by_label=report.rows_by_label,
        cleaning=tuple(report.source_lines()),
        metrics={},
        golden=(),
        trials=order.trials,
        averaged=finished.averaged if finished else (),
        temperature=finished.temperature if finished else None,
        ftray_version=__version__,
    )
    most = context(config, longest) if task.info.generates else longest
    with staged(loaded.model, loaded.setup.processor, most) as staging:
        write_json(staging, task.extra_files(loaded.model, loaded.setup))
        if adapter is not None:
            adapter.write(staging / lora.ADAPTER)
        return place(staging, info, order.target)


def _load(order: Export, loaded: Loaded, values: Values) -> lora.Adapter | None:
    """Load the trained values into the base model, and merge LoRA adapters into its weights, which
    are fp32 from then on. Returns a copy of the adapters if the model folder is to contain them
    too."""
    spec, model = order.spec, loaded.model
    restore(model)
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


def _measure(
    model: LoadedModel, split: Split, ranks: DistContext, detailed: bool = False
) -> Measured:
    where = (split, model.device, _BATCH, ranks)
    with model.inference():
        return measure(model.model, model.task, model.setup, *where, detailed=detailed)


def _keep_rows(
    order: Export, test: EncodedSplit, measured: Measured, labels: Sequence[str]
) -> None:
    """Write the outcome of each row of the test split for the run's report."""
    if order.rows is not None and measured.details is not None:
        terms = get_task(order.spec.task).terms(test.column, test.lengths)
        TestRows.of(measured, test.rows, test.lengths, terms, labels).write(order.rows)


def _scores(measured: Measured, labels: Sequence[str]) -> list[LabelScore]:
    """Return the model's scores for each label on a split; empty for a task without labels."""
    if not labels:
        return []
    return list(label_scores(measured.truth, measured.predicted, labels))


def _worth(order: Export, untrained: _Untrained, measured: Measured, spent: Spent) -> Worth | None:
    """Compare the trained model with the baselines on the test split; None without baselines."""
    baselines, spec, schema = untrained.baselines, order.spec, order.data.schema
    if baselines is None or untrained.probed is None:
        return None
    truth, tuned = _targets(measured, schema)
    predictions = (baselines.constants(len(truth)), untrained.probed, tuned)
    answers = answers_of(schema, truth, predictions)
    return measure_worth(answers, spec.info, spent, len(truth), spec.seed)


def _targets(measured: Measured, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Return the right answers and the predictions as `answers_of` takes them."""
    if schema.scale is None:
        return measured.truth, measured.predicted
    parts = ([judged.truth for judged in measured.judged], [j.prediction for j in measured.judged])
    truth, predicted = (np.array(part, np.float64).reshape(len(part), -1) for part in parts)
    return schema.scale.standardized(truth), schema.scale.standardized(predicted)


def _spent(order: Export) -> Spent:
    """Return the time of the training, which has just ended."""
    scale, tune = order.spec.scale, order.spec.tune
    seconds = 0.0 if order.since is None else time.time() - order.since
    busy = seconds * scale.most_workers
    if tune is not None:
        busy += tune.workers * sum(trial["seconds"] for trial in order.trials)
    return Spent(seconds, busy / 3600, scale.price_per_worker_hour)
