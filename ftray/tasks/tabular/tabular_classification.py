"""Tabular classification: one label for each row of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from ftray.tasks.base import Batch, Metrics, Outputs, Row, TaskSetup
from ftray.tasks.classification import LABEL, LABEL_FEATURE, METRICS, Classifier, label_indices
from ftray.tasks.decision import (
    RANKING,
    Costs,
    decision,
    mean_cost,
    ranking_metrics,
    thresholds_of,
)
from ftray.tasks.features import Examples, Feature
from ftray.tasks.info import Starter, TaskInfo
from ftray.tasks.labels import label_name
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema
from ftray.tasks.tabular.card import CLASSIFIES
from ftray.tasks.tabular.records import Records, TableOptions, clean_record


class Options(TableOptions):
    """Options of the spec's section `task_options`."""

    positive: Annotated[str, BeforeValidator(label_name)] | None = Field(
        None, description="Of two labels the one that is looked for."
    )
    false_positive_rate: float = Field(
        0.1, gt=0, lt=1, description="False-positive rate of the metric recall_at_fpr."
    )
    costs: Costs | None = Field(
        None, description="Costs of the two mistakes, by which the threshold is chosen."
    )


_DEFAULTS = Options()


class TabularClassification(Records, Classifier):
    """The task tabular-classification."""

    info = TaskInfo(
        name="tabular-classification",
        forms=(("record", "label"),),
        modalities={"record": "record", "label": "category"},
        answers=("label",),
        output="labels",
        metrics={**RANKING, **METRICS},
        default_metric="roc_auc",
        max_length=256,
        options=Options,
        ranks=True,
        repeats=True,
        boosting=True,
        usage=CLASSIFIES,
        synonyms={
            "record": "features feature_columns inputs",
            "label": "label_column labels target targets target_column class y",
        },
        starter=Starter(
            name="my-risk",
            model="name_or_path: new://table",
            data="""\
  train: loans.csv             # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.2              # a share of train (stratified), or a file of its own
  test: 0.2
  # split: {by: time, column: day}   # the latest rows are held out
  columns: {label: default_payment}  # all other columns are read; or record: [age, job]""",
            train="""\
  learning_rate: 1.0e-3
  unfreeze: all                # nothing of the model is pretrained""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-4, 5.0e-3]}
    train.epochs: {choice: [5, 10, 20]}
    train.unfreeze: {choice: [2, all]}""",
            serve="  batch: {max_size: 64, wait_ms: 5}",
        ),
    )
    columns = {"record": "record", "label": "category"}
    cleaners = {"record": clean_record, "label": label_name}
    auto_class = "AutoModelForSequenceClassification"

    def fit(self, rows: Iterable[Row], options: BaseModel = _DEFAULTS) -> Schema:
        assert isinstance(options, Options)
        counts = Counter[str]()
        schema = super().fit(_counted(rows, counts), options)
        told = (options.positive, options.false_positive_rate, options.costs)
        found = decision(counts, *told)
        return schema.model_copy(update={"decision": found})

    def tuned(self, found: Gathered, schema: Schema) -> Schema:
        """Return the schema with the thresholds that cost least on the rows of `found`."""
        of = schema.decision
        if of is None or of.costs is None:
            return schema
        best = thresholds_of(found.each["scores"], found.each["truth"], schema.labels, of)
        return schema.model_copy(update={"thresholds": best})

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **LABEL_FEATURE}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each row; its target is the label's index in the schema."""
        found = self.read(setup, rows)
        indices = label_indices(setup.labels, (rows["label"][place] for place in found.rows))
        return replace(found, features={**found.features, LABEL: indices})

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        counts = super().empty_state(schema)
        none = torch.zeros(0, dtype=torch.int64)
        scores = torch.zeros(0, len(schema.labels))
        return counts._replace(each={"scores": scores, "truth": none, "predicted": none})

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the counts of a classifier, and of each row the probabilities (B, C), the label
        and the answer (B,)."""
        logits = outputs["logits"].detach().float()
        each = {
            "scores": logits.softmax(-1),
            "truth": batch.targets[LABEL],
            "predicted": self.picked(logits, setup.schema),
        }
        return super().metric_state(outputs, batch, setup)._replace(each=each)

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return the metrics of a classifier, and those of the positive label's scores: roc_auc,
        average_precision, recall_at_fpr; with costs, cost: the mean of a row."""
        scores, truth, of = found.each["scores"], found.each["truth"], schema.decision
        assert of is not None
        ranking = ranking_metrics(scores, truth, schema.labels, of)
        cost = {}
        if of.costs is not None:
            cost = {"cost": mean_cost(truth, found.each["predicted"], schema.labels, of)}
        return {**ranking, **super().metrics(found, schema), **cost}


def _counted(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    """Yield the rows, and count their labels."""
    for row in rows:
        counts[row["label"]] += 1
        yield row
