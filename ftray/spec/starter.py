"""The commented spec that `ftray init` writes: every section, with the keys most people change."""

from __future__ import annotations

from dataclasses import asdict

from ftray.errors import SpecError
from ftray.near import did_you_mean, nearest
from ftray.tasks import TASKS

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
  batch_size: %(batch_size)-16d # examples per optimizer step, over all workers
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


def starter(task: str) -> str:
    """Return a commented YAML spec for `task`. Raises SpecError."""
    if task not in TASKS:
        hint = did_you_mean(nearest(task, TASKS), f"one of: {', '.join(TASKS)}")
        raise SpecError.of("TASK", task, "no such task", hint)
    return _SPEC % {"task": task, **asdict(TASKS[task].info.starter)}
