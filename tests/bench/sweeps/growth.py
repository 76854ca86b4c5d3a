"""Measures a sweep's cost as it grows: with the number of trials, and with the number of rows.

    python -m tests.bench.sweeps.growth [--trials 1 4 16 64] [--rows 150 600 2400] [--out F.json]

First runs sweeps of one-step trials with one worker. The growth of the whole command's wall time,
after the first trial in each slot, gives the cost of a trial beside its steps. Then runs eight
trials over more and more rows, with the trunk cache and without: a sweep with the cache computes
the trunk once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.bench.common.measure import table
from tests.helpers.training.small_runs import tree, write_rows

ONE_STEP = {"epochs": 1, "batch_size": 16, "micro_batch_size": 16, "trunk_cache": "on"}
MANY_STEPS = {"epochs": 2, "batch_size": 16, "micro_batch_size": 16, "precision": "auto"}


def main() -> None:
    options = _options()
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        by_trials = _by_trials(options, Path(name))
        by_rows = _by_rows(options, Path(name))
    if options.out:
        content = {"trials": by_trials, "rows": by_rows}
        Path(options.out).write_text(json.dumps(content, indent=2) + "\n")


def _by_trials(options: argparse.Namespace, folder: Path) -> dict[int, float]:
    walls: dict[int, float] = {}
    for count in options.trials:
        walls[count] = sweep(folder / f"trials-{count}", 20, count, ONE_STEP)
        print(f"{count} one-step trials: {walls[count]:.1f} s", file=sys.stderr, flush=True)
    slots = os.cpu_count() or 1
    few = min(count for count in walls if count >= slots)
    many = max(walls)
    rows = [[str(count), f"{seconds:.1f}"] for count, seconds in walls.items()]
    print(table(["one-step trials", "seconds in all"], rows))
    if many > few:
        each = (walls[many] - walls[few]) / (many - few)
        print(f"\n{each:.2f} s a trial beyond the first {few}, on {slots} slots\n", flush=True)
    return walls


def _by_rows(options: argparse.Namespace, folder: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for count in options.rows:
        found[count] = {}
        for cache in ("on", "off"):
            train = {**MANY_STEPS, "trunk_cache": cache}
            seconds = sweep(folder / f"rows-{count}-{cache}", count, 8, train)
            found[count][cache] = seconds
            print(f"{count} rows, {cache}: {seconds:.1f} s", file=sys.stderr, flush=True)
    rows = [
        [str(count), f"{s['on']:.1f}", f"{s['off']:.1f}", f"{s['off'] / s['on']:.2f}"]
        for count, s in found.items()
    ]
    print(table(["rows", "with the trunk cache", "without", "ratio"], rows))
    return found


def sweep(folder: Path, rows: int, trials: int, train: Mapping[str, Any]) -> float:
    """Seconds of a whole `ftray tune` in an empty folder, without training the winner again."""
    folder.mkdir()
    space = {
        "train.learning_rate": {"loguniform": [1e-4, 1e-3]},
        "train.unfreeze": {"choice": [0, 1, 2]},
    }
    section = {"trials": trials, "space": space, "scheduler": "fifo", "refit": False}
    data = {"train": str(write_rows(folder / "rows.jsonl", rows))}
    spec = tree(folder, tune=section, train=dict(train), data=data, scale={"workers": 1})
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "ftray", "tune", "spec.yaml", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a sweep costs as it grows.")
    parser.add_argument("--trials", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--rows", nargs="+", type=int, default=[150, 600, 2400])
    parser.add_argument("--out", help="JSON file for the seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
