"""Text classification with any number of labels for each row, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftray.tasks.base import Batch, Example, Examples, Feature, TaskSetup
from ftray.tasks.info import ONE_LABEL_ONLY, Starter, TaskInfo
from ftray.tasks.multi_label import (
    LABEL_SET,
    LABEL_SET_FEATURE,
    METRICS,
    NO_LABEL,
    MultiLabel,
    clean_labels,
)
from ftray.tasks.text.texts import CLEANERS, Texts, padded


class MultiLabelClassification(MultiLabel, Texts):
    """The task multi-label-classification."""

    info = TaskInfo(
        name="multi-label-classification",
        forms=(("text", "labels"), ("text", "text_pair", "labels")),
        modalities={"text": "text", "text_pair": "text", "labels": "texts"},
        answers=("labels",),
        flags=frozenset({"labels"}),
        output="label_set",
        metrics=METRICS,
        default_metric="average_precision",
        max_length=128,
        pipeline="text-classification",
        call='"A text to be labelled.", top_k=None, truncation=True',
        outcome=("prediction", "scores"),
        ranks=True,
        synonyms={
            "text": "text_column sentence comment",
            "text_pair": "sentence2",
            "labels": "label tags topics categories targets",
        },
        lacks=ONE_LABEL_ONLY,
        starter=Starter(
            name="my-labeller",
            model="name_or_path: distilbert/distilbert-base-uncased",
            data="""\
  train: comments.csv          # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train (stratified by the rarest label), or a file
  test: 0.1
  # labels: a list, or a text with | ; or , between labels; or the names of columns with 0 and 1:
  # {text: text, labels: [toxic, insult, threat]}
  columns: {text: text, labels: labels}
  max_length: 128              # tokens a row is cut to""",
            train="""\
  learning_rate: 2.0e-4
  unfreeze: 4                  # top blocks to train; 0 = head only; all = everything
  metric: average_precision    # or f1_micro, f1_macro, exact_match, loss""",
            space="""\
    train.learning_rate: {loguniform: [2.0e-5, 1.0e-3]}
    train.unfreeze: {choice: [1, 2, 4, all]}""",
            serve="  batch: {max_size: 32, wait_ms: 5}",
        ),
    )
    columns = {"text": "text", "text_pair": "text", "labels": "texts"}
    cleaners = {**CLEANERS, "labels": clean_labels}
    auto_class = "AutoModelForSequenceClassification"

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {**super().features(setup), **LABEL_SET_FEATURE}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make one example for each row; its targets are the indices of its labels."""
        found = self.read(setup, rows)
        labels = self.targets(setup, (rows["labels"][place] for place in found.rows))
        return replace(found, features={**found.features, LABEL_SET: labels})

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        return padded(examples, self.features(setup), setup.processor, {LABEL_SET: NO_LABEL})
