"""Tabular classification: one label for each row of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftray.tasks.base import TaskSetup
from ftray.tasks.classification import LABEL, LABEL_FEATURE, METRICS, Classifier, label_indices
from ftray.tasks.features import Examples, Feature
from ftray.tasks.info import Starter, TaskInfo
from ftray.tasks.labels import label_name
from ftray.tasks.tabular.card import USAGE
from ftray.tasks.tabular.records import Records, TableOptions, clean_record


class TabularClassification(Records, Classifier):
    """The task tabular-classification."""

    info = TaskInfo(
        name="tabular-classification",
        forms=(("record", "label"),),
        modalities={"record": "record", "label": "category"},
        answers=("label",),
        output="labels",
        metrics=METRICS,
        default_metric="f1_macro",
        max_length=256,
        options=TableOptions,
        ranks=True,
        repeats=True,
        usage=USAGE,
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

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **LABEL_FEATURE}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each row; its target is the label's index in the schema."""
        found = self.read(setup, rows)
        indices = label_indices(setup.labels, (rows["label"][place] for place in found.rows))
        return replace(found, features={**found.features, LABEL: indices})
