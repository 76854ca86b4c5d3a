"""Kills a sweep's driver at random moments: the same trials, the same results, no trial run twice.

    python -m tests.bench.sweeps.kill_sweep [--kills 10] [--trials 48] [--scheduler fifo] [--seed 0]

Runs `ftray tune` with its own Ray instance. SIGKILL hits the driver and the Ray processes inside
it, half a second to six seconds after a trial began or ended; then the same command resumes the
sweep. At the end every trial must have the values, the metrics (bit for bit) and the status that it
has in an undisturbed sweep, and no finished trial may have begun again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.external.processes import kill_with_children
from tests.helpers.training.small_runs import tree

# Fields of a trial's last event that hold durations and memory, which differ from run to run.
TIMES = ("seconds", "memory", "epoch_seconds")


def main() -> None:
    options = _options()
    source = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-sweep-") as name:
        folder = Path(name)
        left_alone = finish(start(spec(folder, "whole", options), folder / "whole.log"))
        log, killed = folder / "killed.log", 0
        path = spec(folder, "killed", options)
        process = start(path, log)
        while killed < options.kills and await_moment(folder / "killed", process, source):
            kill_with_children(process)
            killed += 1
            ended = [t["id"] for t in ends(journal(folder / "killed"))]
            print(f"kill {killed}: {len(ended)} trials had ended", file=sys.stderr, flush=True)
            process = start(path, log)
        found = finish(process)
        compare(found, left_alone)
        twice = begun_again(journal(folder / "killed"))
    if twice:
        raise SystemExit(f"trials that had ended began again: {twice}")
    print(f"{killed} kills: {len(found)} trials as if there had been none")


def spec(folder: Path, name: str, options: argparse.Namespace) -> Path:
    space = {
        "train.learning_rate": {"loguniform": [1e-4, 1e-3]},
        "train.unfreeze": {"choice": [0, 1, 2]},
        "train.epochs": {"choice": [1, 2, 3]},
    }
    section = {"trials": options.trials, "space": space, "scheduler": options.scheduler}
    made = tree(
        folder, name=name, storage=str(folder / name), tune=section, train={"trunk_cache": "on"}
    )
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def start(path: Path, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftray", "tune", str(path), "--json"]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """Waits for the sweep to end, and gives its trials by id."""
    stdout, _ = process.communicate(timeout=900)
    if process.returncode:
        raise SystemExit(f"the sweep failed with {process.returncode}")
    return {trial["id"]: trial for trial in json.loads(stdout.splitlines()[-1])["trials"]}


def journal(storage: Path) -> list[dict[str, Any]]:
    """The recorded events of the trials."""
    events = []
    for file in storage.glob("runs/*/*/metrics.jsonl"):
        lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
        events += [event for event in map(json.loads, lines) if event["kind"] == "trial"]
    return events


def ends(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["status"] in ("done", "failed")]


def begun_again(events: list[dict[str, Any]]) -> list[str]:
    over: set[str] = set()
    again = []
    for event in events:
        if event["id"] in over:
            again.append(event["id"])
        if event["status"] in ("done", "failed"):
            over.add(event["id"])
    return again


def await_moment(storage: Path, process: subprocess.Popen[str], source: random.Random) -> bool:
    """Waits for one more event and a random while. False if the sweep ends before."""
    before = len(journal(storage))
    while len(journal(storage)) <= before:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(source.uniform(0.5, 6))
    return process.poll() is None


def compare(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    if found.keys() != expected.keys():
        raise SystemExit(f"other trials: {sorted(found)} for {sorted(expected)}")
    for name, trial in expected.items():
        for told in (trial, found[name]):
            for key in TIMES:
                told.pop(key, None)
                told["metrics"].pop(key, None)
        if found[name] != trial:
            raise SystemExit(f"trial {name} differs:\n{found[name]}\n{trial}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill a sweep's driver at random moments.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--scheduler", default="fifo")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
