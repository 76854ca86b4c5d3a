"""Text regression: one number for each text or pair of texts, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Examples, Feature
from ftray.tasks.info import NO_SMOOTHING, ONE_LABEL_ONLY, Starter, TaskInfo
from ftray.tasks.regression import METRICS, NUMBERS, Regressor, clean_numbers
from ftray.tasks.text.texts import CLEANERS, Texts


class TextRegression(Regressor, Texts):
    """The task text-regression."""

    info = TaskInfo(
        name="text-regression",
        forms=(("text", "score"), ("text", "text_pair", "score")),
        modalities={"text": "text", "text_pair": "text", "score": "number"},
        answers=("score",),
        output="numbers",
        metrics=METRICS,
        default_metric="spearman",
        max_length=128,
        linear_probe=True,
        pipeline="text-classification",
        call='"A text.", function_to_apply="none", truncation=True',
        outcome=("prediction",),
        synonyms={
            "text": "text_column sentence sentence1 review",
            "text_pair": "sentence2 premise",
            "score": "label target value rating y",
        },
        lacks=ONE_LABEL_ONLY | NO_SMOOTHING,
        starter=Starter(
            name="my-scorer",
            model="name_or_path: distilbert/distilbert-base-uncased",
            data="""\
  train: reviews.csv           # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: a text and its score; or {text: text, text_pair: other, score: score}, two texts
  # that are compared. A score may be a list of numbers.
  columns: {text: text, score: score}
  max_length: 128              # tokens a row is cut to""",
            train="""\
  learning_rate: 2.0e-4
  unfreeze: 2                  # top blocks to train; 0 = head only; all = everything
  metric: spearman             # picks the best checkpoint; or pearson, r2, mae, rmse, loss""",
            space="""\
    train.learning_rate: {loguniform: [2.0e-5, 1.0e-3]}
    train.batch_size: {choice: [16, 32]}
    train.unfreeze: {choice: [0, 1, 2, 4]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
        ),
    )
    columns = {"text": "text", "text_pair": "text", "score": "number"}
    cleaners = {**CLEANERS, "score": clean_numbers}
    auto_class = "AutoModelForSequenceClassification"

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **self.target_features(setup)}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each row; its targets are the row's standardized numbers."""
        found = self.read(setup, rows)
        scores = self.targets(setup, (rows["score"][place] for place in found.rows))
        return replace(found, features={**found.features, NUMBERS: scores})
