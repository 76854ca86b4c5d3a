"""Tabular regression: one number for each row of a table, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Examples, Feature
from ftray.tasks.info import NO_SMOOTHING, ONE_LABEL_ONLY, Starter, TaskInfo
from ftray.tasks.regression import METRICS, NUMBERS, Regressor, clean_numbers
from ftray.tasks.tabular.card import PREDICTS
from ftray.tasks.tabular.records import Records, TableOptions, clean_record


class TabularRegression(Records, Regressor):
    """The task tabular-regression."""

    info = TaskInfo(
        name="tabular-regression",
        forms=(("record", "score"),),
        modalities={"record": "record", "score": "number"},
        answers=("score",),
        output="numbers",
        metrics=METRICS,
        default_metric="r2",
        max_length=256,
        options=TableOptions,
        outcome=("prediction",),
        repeats=True,
        boosting=True,
        usage=PREDICTS,
        synonyms={
            "record": "features feature_columns inputs",
            "score": "label target value target_column y",
        },
        lacks=ONE_LABEL_ONLY | NO_SMOOTHING,
        starter=Starter(
            name="my-prices",
            model="name_or_path: new://table",
            data="""\
  train: houses.csv            # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.2              # a share of train, or a file of its own
  test: 0.2
  # split: {by: time, column: sold}   # the latest rows are held out
  columns: {score: price}      # all other columns are read; or record: [rooms, area]""",
            train="""\
  learning_rate: 1.0e-3
  unfreeze: all                # nothing of the model is pretrained
  metric: r2                   # picks the best checkpoint; or mae, rmse, spearman, loss""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-4, 5.0e-3]}
    train.epochs: {choice: [5, 10, 20]}
    train.unfreeze: {choice: [2, all]}""",
            serve="  batch: {max_size: 64, wait_ms: 5}",
        ),
    )
    columns = {"record": "record", "score": "number"}
    cleaners = {"record": clean_record, "score": clean_numbers}
    auto_class = "AutoModelForSequenceClassification"

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **self.target_features(setup)}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each row; its targets are the row's standardized numbers."""
        found = self.read(setup, rows)
        scores = self.targets(setup, (rows["score"][place] for place in found.rows))
        return replace(found, features={**found.features, NUMBERS: scores})
