"""Text classification with one label for each text or pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftray.tasks.base import Examples, Feature, TaskSetup
from ftray.tasks.classification import LABEL, LABEL_FEATURE, METRICS, Classifier, label_indices
from ftray.tasks.info import Starter, TaskInfo
from ftray.tasks.labels import label_name
from ftray.tasks.text.texts import CLEANERS, Texts


class TextClassification(Classifier, Texts):
    """The task text-classification."""

    info = TaskInfo(
        name="text-classification",
        forms=(("text", "label"), ("text", "text_pair", "label")),
        modalities={"text": "text", "text_pair": "text", "label": "category"},
        answers=("label",),
        output="labels",
        metrics=METRICS,
        default_metric="f1_macro",
        max_length=128,
        linear_probe=True,
        call='"A text to be labelled.", truncation=True',
        ranks=True,
        synonyms={
            "text": "text_column text_field input input_column sentence review",
            "text_pair": "sentence2 hypothesis",
            "label": "label_column labels target targets target_column class y",
        },
        starter=Starter(
            name="my-classifier",
            model="name_or_path: distilbert/distilbert-base-uncased",
            data="""\
  train: reviews.csv           # CSV, JSONL, Parquet, Arrow, a folder per label, or a Hub id
  validation: 0.1              # a share of train (stratified), or a file of its own
  test: 0.1
  # Two texts that are compared: {text: premise, text_pair: hypothesis, label: label}
  columns: {text: text, label: label}
  max_length: 128              # tokens a row is cut to""",
            train="""\
  learning_rate: 2.0e-4
  unfreeze: 2                  # top blocks to train; 0 = head only; all = everything""",
            space="""\
    train.learning_rate: {loguniform: [2.0e-5, 1.0e-3]}
    train.batch_size: {choice: [16, 32]}
    train.epochs: {choice: [2, 3]}
    train.unfreeze: {choice: [0, 1, 2, 4]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
        ),
    )
    columns = {"text": "text", "text_pair": "text", "label": "category"}
    cleaners = {**CLEANERS, "label": label_name}
    auto_class = "AutoModelForSequenceClassification"

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **LABEL_FEATURE}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each row; its target is the label's index in the schema."""
        found = self.read(setup, rows)
        indices = label_indices(setup.labels, (rows["label"][place] for place in found.rows))
        return replace(found, features={**found.features, LABEL: indices})
