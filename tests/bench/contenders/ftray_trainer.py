"""Measures ftray's own training in the same way as the Hugging Face script.

    python tests/bench/contenders/ftray_trainer.py SPEC [--workers]

Without the option, its loop runs in this one process, without Ray; with it, `ftray train SPEC`
starts Ray Train workers.

The last line of stdout is one JSON object: the best epoch's metrics on validation and test rows, as
the exported model states them, and the rows and seconds of each epoch's optimizer steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from ftray.cluster.connection import session
from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.spec.load import load, override
from ftray.store.files.location import locate
from ftray.train import loop
from ftray.train.base import load_base
from ftray.train.check import ValidatedSpec, check_inputs
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.context import build
from ftray.train.distributed.context import alone
from ftray.train.distributed.process import settle
from ftray.train.export import export, solo
from ftray.train.orders import Export
from ftray.train.progress import Progress
from ftray.train.run import prepare, train


class Clock:
    """Collects the rows and seconds of each epoch from the events of a run."""

    def __init__(self, remote: bool) -> None:
        self.remote = remote
        self.precision = ""
        self._last = 0.0
        self.timed: dict[int, dict[str, float]] = defaultdict(lambda: {"rows": 0, "seconds": 0.0})

    def listen(self, event: dict[str, Any]) -> None:
        if event["kind"] == "start":
            self.precision = event["precision"]
        elif event["kind"] == "step":
            self.step(event)

    def step(self, event: dict[str, Any]) -> None:
        epoch = self.timed[event["epoch"]]
        now = time.perf_counter()
        # In this process the clock measures from step to step, so that writing checkpoints between
        # two steps counts.
        here = now - self._last if self._last and epoch["rows"] else event["seconds"]
        epoch["seconds"] += event["seconds"] if self.remote else here
        epoch["rows"] += event["rows"]
        self._last = now

    def phase(self, progress: Progress) -> None: ...

    def alive(self) -> None: ...

    def epoch(self, metrics: dict[str, Any]) -> None: ...

    def warn(self, line: str) -> None: ...

    def stopping(self) -> bool:
        return False


def in_process(checked: ValidatedSpec, clock: Clock) -> ModelInfo:
    """Trains in this process, keeps the best epoch and exports it.

    The data must be encoded already.
    """
    data = prepare(checked).data
    alike = {"scale.workers": 1, "scale.cpus_per_worker": torch.get_num_threads()}
    spec = override(checked.spec, alike)
    settle(spec)
    kept = locate(str(Path("checkpoints").absolute()))
    base = load_base(spec, data.schema)
    setup, progress = build(spec, data, base, alone(), None)
    clock.precision = "bf16" if setup.engine.module.autocast else "fp32"
    loop.run(setup, progress, CheckpointManager(spec.train.checkpoint, kept, writes=True), clock)
    target = locate(str(Path("model").absolute()))
    export(Export(spec, data, kept, target, run="parity"), solo())
    return read_info(target)


def on_workers(checked: ValidatedSpec, clock: Clock) -> ModelInfo:
    """Runs the steps of the command `ftray train`."""
    with session():
        return train(checked, listener=clock.listen).info


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune with ftray.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--workers", action="store_true", help="through Ray Train workers")
    options = parser.parse_args()
    checked, clock = check_inputs(load(options.spec)), Clock(options.workers)
    info = (on_workers if options.workers else in_process)(checked, clock)
    result = {
        "precision": clock.precision,
        "metrics": info.metrics,
        "epochs": list(clock.timed.values()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
