"""Masked pretraining on a table: the model finds cells that are hidden, and so learns from rows
without answers how the columns hang together.

Its model folder is a base model for the other tasks on rows of the same table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftray.tasks.base import Row, TaskSetup
from ftray.tasks.features import Examples
from ftray.tasks.info import ONE_LABEL_ONLY, Starter, TaskInfo
from ftray.tasks.tabular.inference import RECORD
from ftray.tasks.tabular.records import Records, TableOptions, clean_record
from ftray.tasks.text import fill_mask
from ftray.tasks.text.fill_mask import FillMask


class Options(fill_mask.Options, TableOptions):
    """Options of the spec's section `task_options`."""


class TabularFillMask(Records, FillMask):
    """The task tabular-fill-mask."""

    info = TaskInfo(
        name="tabular-fill-mask",
        forms=((RECORD,),),
        modalities={RECORD: "record"},
        answers=(),
        output="fills",
        metrics={"loss": "min", "accuracy": "max"},
        default_metric="loss",
        max_length=256,
        options=Options,
        outcome=("prediction", "scores"),
        ranks=True,
        repeats=True,
        pipeline="fill-mask",
        call=r'"age #3\n[MASK]"',
        synonyms={RECORD: "features feature_columns inputs"},
        lacks={
            **ONE_LABEL_ONLY,
            "train.token_dropout": (0.0, "the task hides cells itself", "Set 0."),
        },
        starter=Starter(
            name="my-table",
            model="name_or_path: new://table",
            data="""\
  train: all-loans.csv         # CSV, JSONL, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # All columns are read; or those of: columns: {record: [age, job]}""",
            train="""\
  learning_rate: 1.0e-3
  unfreeze: all                # nothing of the model is pretrained
  metric: loss                 # of hidden cells; or accuracy""",
            space="""\
    train.learning_rate: {loguniform: [1.0e-4, 5.0e-3]}
    train.epochs: {choice: [10, 20, 40]}
    train.unfreeze: {choice: [2, all]}""",
            serve="  batch: {max_size: 64, wait_ms: 5}",
        ),
    )
    columns = {RECORD: "record"}
    cleaners = {RECORD: clean_record}

    def parse(self, values: Mapping[str, Any]) -> Row:
        return {RECORD: clean_record(values[RECORD])}

    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        return super().examples(setup, {"text": self.texts(setup, map(json.loads, rows[RECORD]))})
