"""Measures data-parallel training on this machine: one worker against two, with one thread each.

    python -m tests.bench.training.scaling [--unfreeze 2 all] [--batch-size 32] [--repeats 3]
        [--stage 0]
        [--rows 2500] [--out F.json]

Both use the same global batches and ftray's own loop, without Ray (which takes no part in a step).
Efficiency is the speed of two workers over twice the speed of one, run by run. `2 apart` are two
independent processes that train with half the batch each: the most that the machine gives to two
processes. The parts of a step are the phases of its events, as means over ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ftray.spec.load import dump, load, override
from ftray.train import loop
from ftray.train.base import load_base
from ftray.train.check import check_inputs
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.context import build
from ftray.train.distributed.context import alone, join_group
from ftray.train.distributed.process import settle
from ftray.train.progress import Progress
from ftray.train.run import prepare
from tests.bench.common.contest import stage
from tests.bench.common.measure import Sample, table

Parts = dict[str, float]
WORKERS = ("1", "2", "2 apart")
PARTS = ("data", "forward", "backward", "reduce", "update", "waiting", "rest")


def main() -> None:
    options = _options()
    runs: list[dict[str, Any]] = []
    with stage(options.rows, 1, held_out=64) as here:
        for turn in range(options.repeats):
            for unfreeze in options.unfreeze:
                for workers in WORKERS if turn % 2 == 0 else WORKERS[::-1]:
                    apart = workers == "2 apart"
                    changes = {
                        "train.unfreeze": unfreeze,
                        "train.epochs": 2,
                        "tune": None,
                        "train.batch_size": options.batch_size // (2 if apart else 1),
                        "train.micro_batch_size": options.batch_size // 2,
                        "train.deepspeed": {"stage": options.stage},
                        "scale.workers": 2 if workers == "2" else 1,
                        "storage": str(here.folder / "storage"),
                    }
                    spec = dump(override(here.spec, changes))
                    parts = measure(spec, int(workers[0]), apart)
                    runs.append({"unfreeze": unfreeze, "workers": workers, "ms": parts})
                    total = sum(parts.values())
                    print(f"{unfreeze} blocks, {workers}: {total:.1f} ms a step", file=sys.stderr)
    print(report(runs, options.batch_size))
    if options.out:
        Path(options.out).write_text(json.dumps(runs, indent=2) + "\n")


def measure(spec: str, count: int, apart: bool) -> Parts:
    """Milliseconds of each part of a step, measured in processes of their own."""
    context = mp.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        world = 1 if apart else count
        arguments = [(rank, world, folder, spec, results) for rank in range(count)]
        processes = [context.Process(target=work, args=one) for one in arguments]
        for process in processes:
            process.start()
        found = [results.get(timeout=600) for _ in processes]
        for process in processes:
            process.join(30)
    return {part: statistics.fmean(parts[part] for parts in found) for part in PARTS}


def work(rank: int, world: int, folder: str, text: str, results: Any) -> None:
    file = Path(folder) / f"{rank}.yaml"
    file.write_text(text)
    checked = check_inputs(load(file))
    spec, data = checked.spec, prepare(checked).data
    settle(spec)
    if world > 1:
        # Without these variables DeepSpeed searches for MPI.
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": 0}
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    ranks = join_group() if world > 1 else alone()
    base = load_base(spec, data.schema)
    setup, progress = build(spec, data, base, ranks, None)
    phases = Phases()
    keeper = CheckpointManager(spec.train.checkpoint, None, writes=False)
    loop.run(setup, progress, keeper, phases)
    results.put(phases.means())
    if world > 1:
        dist.barrier()


class Phases:
    """Collects the seconds of each phase in the second epoch's steps."""

    def __init__(self) -> None:
        self._spent: Parts = defaultdict(float)
        self._steps = 0

    def means(self) -> Parts:
        known = {part: 1000 * self._spent[part] / self._steps for part in PARTS}
        known["rest"] -= sum(value for part, value in known.items() if part != "rest")
        return known

    def step(self, event: dict[str, Any]) -> None:
        if event["epoch"] == 2:
            self._steps += 1
            for part, seconds in {**event["phases"], "rest": event["seconds"]}.items():
                self._spent[part] += seconds

    def epoch(self, metrics: dict[str, Any]) -> None: ...

    def phase(self, progress: Progress) -> None: ...

    def alive(self) -> None: ...

    def warn(self, line: str) -> None: ...

    def stopping(self) -> bool:
        return False


def report(runs: list[dict[str, Any]], batch: int) -> str:
    rows = []
    for unfreeze in dict.fromkeys(run["unfreeze"] for run in runs):
        here = [run for run in runs if run["unfreeze"] == unfreeze]
        times = {w: [run["ms"] for run in here if run["workers"] == w] for w in WORKERS}
        speeds = {
            workers: Sample(tuple(1000 * batch / sum(parts.values()) for parts in each))
            for workers, each in times.items()
        }
        for workers, each in times.items():
            medians = [statistics.median(parts[part] for parts in each) for part in PARTS]
            ratios = Sample(tuple(v / 2 for v in speeds[workers].over(speeds["1"]).values))
            efficiency = "" if workers == "1" else ratios.median_and_range(3)
            figures = [f"{value:.1f}" for value in medians]
            speed = speeds[workers].median_and_range(1)
            rows.append([str(unfreeze), workers, speed, efficiency, *figures])
    parts = [f"{part}, ms" for part in PARTS]
    return table(["blocks trained", "workers", "samples/s", "efficiency", *parts], rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One worker against two.")
    parser.add_argument(
        "--unfreeze", nargs="+", type=lambda v: v if v == "all" else int(v), default=[2, "all"]
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stage", type=int, choices=(0, 1, 2, 3), default=0)
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
