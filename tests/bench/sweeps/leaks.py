"""Runs many trials on few slots, most of them stopped early, and looks for leaks after the sweep.

    python -m tests.bench.sweeps.leaks [--trials 200] [--rows 200] [--cpus 2]

Runs one Ray instance in this process, and ASHA on trials of up to nine epochs. Exits with an error
if a placement group, an actor or a CPU is still held, or if a file is left that a finished sweep
should not leave.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors
from ray.util import placement_group_table

from ftray.cluster.connection import configure
from ftray.spec.load import parse
from ftray.train.check import check_inputs
from ftray.tune.sweep import tune
from tests.helpers.training.free_cpus import wait_for_free_cpus
from tests.helpers.training.small_runs import tree, write_rows

SPACE = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.unfreeze": {"choice": [0, 1, 2]},
}
OF_RAY_DATA = ("_AutoscalingCoordinatorActor", "_StatsActor")
SHARED_MEMORY, TEMPORARY = Path("/dev/shm"), Path(tempfile.gettempdir())


def main() -> None:
    options = _options()
    os.environ.pop("RAY_ADDRESS", None)
    configure()
    with tempfile.TemporaryDirectory(prefix="leaks-") as name:
        folder, before = Path(name), _outside()
        ray.init(
            address="local",
            num_cpus=options.cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        started = time.perf_counter()
        statuses, run = search(folder, options)
        seconds = time.perf_counter() - started
        left = _left(run, options.cpus)
        ray.shutdown()
        left += [f"outside of the storage root: {path}" for path in _outside() - before]
    if left:
        raise SystemExit("left behind:\n" + "\n".join(left))
    told = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    print(f"{sum(statuses.values())} trials on {options.cpus} slots ({told}) in {seconds:.0f} s")
    print("no placement group, actor, CPU or file is left")


def search(folder: Path, options: argparse.Namespace) -> tuple[Counter[str], Path]:
    """Runs the sweep.

    Returns the trials' statuses with their counts, and the sweep's run folder.
    """
    section = {"trials": options.trials, "space": SPACE, "scheduler": "asha", "refit": False}
    data = {"train": str(write_rows(folder / "rows.jsonl", options.rows))}
    train = {"epochs": 9, "trunk_cache": "on"}
    spec = tree(folder, tune=section, data=data, train=train, scale={"workers": 1})

    ended: Counter[str] = Counter()

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "trial" and event["status"] != "running":
            ended["segments"] += 1
            if ended["segments"] % 20 == 0:
                print(f"{ended['segments']} segments", file=sys.stderr, flush=True)

    tuned = tune(check_inputs(parse(spec)), listener=listen)
    statuses = Counter(trial.status for trial in tuned.trials)
    return statuses, Path(tuned.trained.run.location.path)


def _left(run: Path, cpus: int) -> list[str]:
    """Ray objects and files in the run folder that the sweep should have removed."""
    found = []
    wait_for_free_cpus(cpus)
    for group in placement_group_table().values():
        if group["state"] != "REMOVED":
            found.append(f"placement group {group['placement_group_id']}: {group['state']}")
    for actor in actors().values():
        # Ray Data keeps some actors of its own, which hold no resources, as long as the cluster
        # lives.
        if actor["State"] != "DEAD" and actor["ActorClassName"] not in OF_RAY_DATA:
            found.append(f"actor {actor['ActorClassName']}: {actor['State']}")
    expected = {"spec.yaml", "status.json", "metrics.jsonl", "report.html"}
    found += [f"file {path}" for path in run.iterdir() if path.name not in expected]
    return found


def _outside() -> set[Path]:
    """ftray's files in shared memory and in the folder for temporary files."""
    return {*SHARED_MEMORY.glob("ftray-*"), *TEMPORARY.glob("ftray-*")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a sweep of many stopped trials leaves.")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--cpus", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
