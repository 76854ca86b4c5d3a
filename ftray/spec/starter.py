"""The spec that `ftray init` writes: every section, the keys most people change, in words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ftray.errors import SpecError

_SPEC = """\
# What to train, on what, how, and how to serve it. Every key: `ftray schema`.
name: %(name)-23s  # lower-case letters, digits and dashes
task: %(task)s
seed: 42
# storage: s3://bucket/prefix  # a folder or URL; else $FTRAY_STORAGE, else ./ftray-data

model:
  %(model)s   # a Hub id, a folder, or a URL of a folder

data:
%(data)s
  on_bad_row: fail             # skip: bad rows are counted and set aside

train:
  epochs: 3
  batch_size: 32               # examples per optimizer step, over all workers
%(train)s
  precision: auto              # bf16 where the hardware has it
  deepspeed: {stage: 2}        # ZeRO stage, or the path of a DeepSpeed JSON

scale: {workers: 1, gpus_per_worker: auto, cpus_per_worker: 1}

tune:                          # `ftray tune` tries these and keeps the best
  trials: 8
  space:                       # any key of `train`
%(space)s
  searcher: random             # or grid, tpe
  scheduler: asha              # or hyperband, median, fifo
  refit: true                  # train the winner again at `scale`

export: {golden: rows}         # test rows kept with the model to prove it; or synthetic, off

serve:
  replicas: {min: 1, max: 1}
%(serve)s
"""

_TASKS: dict[str, Mapping[str, str]] = {
    "text-classification": {
        "name": "my-classifier",
        "task": "text-classification",
        "model": "name_or_path: distilbert/distilbert-base-uncased",
        "data": """\
  train: reviews.csv           # CSV, JSONL, Parquet, Arrow, a folder per label, or a Hub id
  validation: 0.1              # a share of train (stratified), or a file of its own
  test: 0.1
  columns: {text: text, label: label}
  max_length: 128              # tokens a row is cut to""",
        "train": """\
  learning_rate: 2.0e-4
  unfreeze: 2                  # top blocks to train; 0 = head only; all = everything""",
        "space": """\
    train.learning_rate: {loguniform: [2.0e-5, 1.0e-3]}
    train.batch_size: {choice: [16, 32]}
    train.epochs: {choice: [2, 3]}
    train.unfreeze: {choice: [0, 1, 2, 4]}""",
        "serve": "  batch: {max_size: 32, wait_ms: 5}",
    },
    "text-generation": {
        "name": "my-writer",
        "task": "text-generation",
        "model": "name_or_path: Qwen/Qwen3-0.6B",
        "data": """\
  train: examples.jsonl        # JSONL, CSV, Parquet, Arrow, or a Hub id
  validation: 0.1              # a share of train, or a file of its own
  test: 0.1
  # What a row has: a prompt and its completion; or {messages: messages}, a chat of which the last
  # turn is learnt; or {text: text}, which is learnt whole.
  columns: {prompt: prompt, completion: completion}
  max_length: 512              # tokens a row is cut to""",
        "train": """\
  learning_rate: 2.0e-5
  unfreeze: 4                  # top blocks to train; all = everything
  metric: loss                 # of the completions' tokens; or accuracy""",
        "space": """\
    train.learning_rate: {loguniform: [5.0e-6, 5.0e-4]}
    train.unfreeze: {choice: [1, 2, 4, 8]}""",
        "serve": """\
  batch: {max_size: 32}        # answers that are written together
  max_tokens: 512              # of one answer""",
    },
}


def starter(task: str) -> str:
    """A commented YAML spec for `task`. Raises SpecError."""
    if task not in _TASKS:
        close = difflib.get_close_matches(task, _TASKS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of: {', '.join(_TASKS)}"
        raise SpecError.of("TASK", task, "no such task", hint)
    return _SPEC % _TASKS[task]
