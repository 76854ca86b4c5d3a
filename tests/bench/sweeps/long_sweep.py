"""A sweep of many trials: its time that goes into tracking, and its report in a browser.

    python -m tests.bench.sweeps.long_sweep [--trials 200] [--epochs 20] [--keep FOLDER]

Runs the sweep in this process, with MLflow on its local database. Tracking costs the time that the
driver is held up by the tracker's methods, and the processor time of the thread that sends: where
all cores are busy, the sweep is longer by the thread's share of them. Chromium opens the report
from the disk; the times end with the page's `load` event and its first paint.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import ray

from ftray.cluster.connection import configure
from ftray.reports.write import FILE, report
from ftray.spec.load import parse
from ftray.store.root import open_root
from ftray.store.tracking.mlflow_run import MlflowRun
from ftray.store.tracking.mlflow_tracker import MlflowTracker
from ftray.train.check import check_inputs
from ftray.tune.sweep import tune
from tests.helpers.external.browser import DESKTOP, browsing
from tests.helpers.training.small_runs import tree, write_rows

SPACE = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.unfreeze": {"choice": [0, 1]},
}
CORES = 2
TIMES = """JSON.stringify([performance.getEntriesByType('navigation')[0].loadEventEnd,
    (performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime])"""


def measured(owner: type, name: str, clock: Callable[[], float], spent: dict[str, float]) -> None:
    """Replaces a method by one that adds its time to `spent`."""
    method = getattr(owner, name)

    @wraps(method)
    def timed(*args: Any, **options: Any) -> Any:
        began = clock()
        try:
            return method(*args, **options)
        finally:
            spent[name] += clock() - began

    setattr(owner, name, timed)


def search(folder: Path, options: argparse.Namespace) -> tuple[float, Any]:
    """Runs the sweep. Returns its seconds and what it found."""
    spec = tree(
        folder,
        data={"train": str(write_rows(folder / "rows.jsonl", options.rows))},
        train={"epochs": options.epochs, "trunk_cache": "on"},
        scale={"workers": 1},
        tune={"trials": options.trials, "space": SPACE, "scheduler": "fifo", "refit": False},
    )
    ended = 0

    def listen(event: dict[str, Any]) -> None:
        nonlocal ended
        if event["kind"] == "trial" and event["status"] == "done":
            ended += 1
            if ended % 20 == 0:
                print(f"{ended} trials", file=sys.stderr, flush=True)

    began = time.perf_counter()
    tuned = tune(check_inputs(parse(spec)), listener=listen)
    return time.perf_counter() - began, tuned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--keep", type=Path, help="a folder to keep the sweep in")
    options = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    configure()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="long-sweep-"))
    folder.mkdir(exist_ok=True)
    spent: dict[str, float] = defaultdict(float)
    for name in ("tag", "parameters", "log", "data", "attach", "end"):
        measured(MlflowRun, name, time.perf_counter, spent)
    for name in ("__init__", "child", "close"):
        measured(MlflowTracker, name, time.perf_counter, spent)
    measured(MlflowTracker, "_work", time.thread_time, spent)
    ray.init(address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    seconds, tuned = search(folder, options)
    ray.shutdown()
    sent, held_up = spent.pop("_work"), sum(spent.values())
    print(f"{len(tuned.trials)} trials of {options.epochs} epochs in {seconds:.0f} s")
    print(
        f"tracking: driver held up {held_up:.2f} s, sending thread {sent:.2f} s of processor on "
        f"{CORES} cores: {(held_up + sent / CORES) / seconds:.2%} of the sweep"
    )
    run = tuned.trained.run
    began = time.perf_counter()
    html = report(open_root(str(folder / "storage")), run)
    print(f"report: {len(html) / 2**20:.2f} MB, written in {time.perf_counter() - began:.1f} s")
    for _ in range(3):
        with (
            tempfile.TemporaryDirectory() as profile,
            browsing(Path((run.location / FILE).path).as_uri(), DESKTOP, Path(profile)) as page,
        ):
            page.wait_until("performance.getEntriesByType('navigation')[0].loadEventEnd")
            time.sleep(0.5)
            print("opened in (ms, load event and first paint):", page.value(TIMES))


if __name__ == "__main__":
    main()
