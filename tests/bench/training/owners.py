"""One run with several drivers, or with other inputs than before: who trains, what is recorded.

    python -m tests.bench.training.owners [--roots disk s3] [--cases together stopped restarted
        row base deepspeed] [--seconds 120]

Each case starts `ftray train`, the command of a user, on a disk and on moto's S3.

    together    two commands at the same moment: one trains, the other names the owner and exits 1
    stopped     the driver gets SIGSTOP for `--seconds`, another command starts meanwhile, and the
                driver continues: the run still belongs to the driver
    restarted   the driver and its processes are killed, and the same command starts at once: it
                resumes the run
    row, base, deepspeed
                the driver is killed, and then a row is appended, a weight of the base model
                replaced, or the DeepSpeed file edited: the same command begins a new run and says
                what changed

Every step of a run that ended must be recorded, and, unless a driver was killed, once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from ftray.store.files.location import locate
from ftray.store.root import open_root
from ftray.store.runs.folder import RunFolder, list_runs
from tests.bench.common.measure import table
from tests.helpers.external.object_store import KEYS, ObjectStore
from tests.helpers.external.processes import kill_with_children
from tests.helpers.training.small_runs import MODEL, tree, wait_for, write_rows

EPOCHS = 12
KILLED_AT = 30
OTHERS = "is being driven"
TOLD = {
    "together": OTHERS,
    "stopped": OTHERS,
    "restarted": "continuing run",
    "row": "the data have changed",
    "base": "the base model's files have changed",
    "deepspeed": "DeepSpeed file has changed",
}
"""Case -> words of the line that a command must print."""


@dataclass
class Result:
    """The outcome of one case. exits: the exit status of each command in the order of their starts;
    runs: the steps that each run has recorded; twice: the number of steps recorded more than
    once."""

    root: str
    case: str
    exits: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    twice: int = 0
    seconds: float = 0.0
    said: str = ""
    right: bool = False


class Case:
    """A spec in a folder of its own, and the commands that train it."""

    def __init__(self, folder: Path, storage: str, name: str) -> None:
        self.folder, self.storage = folder, storage
        self.rows = write_rows(folder / "rows.jsonl", 400)
        self.deepspeed = folder / "deepspeed.json"
        self.deepspeed.write_text(json.dumps({"zero_optimization": {"stage": 0}}))
        self.base = folder / "base"
        shutil.copytree(locate(MODEL).path, self.base)
        spec = tree(
            folder,
            name=name,
            storage=storage,
            model={"name_or_path": str(self.base)},
            train={
                "epochs": EPOCHS,
                "deepspeed": str(self.deepspeed),
                "checkpoint": {"every_steps": 10},
            },
            scale={"workers": 1},
        )
        self.name, self.spec = name, folder / "spec.yaml"
        self.spec.write_text(yaml.safe_dump(spec))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ftray", "train", str(self.spec), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        )

    def runs(self) -> list[RunFolder]:
        """The runs, oldest first."""
        return sorted(list_runs(open_root(self.storage), self.name), key=lambda run: run.run_id)

    def steps(self, run: RunFolder) -> Counter[int]:
        return Counter(event["step"] for event in run.metrics() if event["kind"] == "step")

    def wait_for_step(self, step: int) -> None:
        def reached() -> bool:
            return any(max(self.steps(run), default=0) >= step for run in self.runs())

        wait_for(reached, f"step {step}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status, and what the command said on stderr."""
    _, said = process.communicate(timeout=900)
    return process.returncode, said


def together(case: Case, seconds: float) -> list[tuple[int, str]]:
    return [ended(process) for process in [case.start(), case.start()]]


def stopped(case: Case, seconds: float) -> list[tuple[int, str]]:
    driver = case.start()
    case.wait_for_step(KILLED_AT)
    os.kill(driver.pid, signal.SIGSTOP)
    other = case.start()
    time.sleep(seconds)
    os.kill(driver.pid, signal.SIGCONT)
    return [ended(driver), ended(other)]


def restarted(
    case: Case, seconds: float, change: Callable[[], None] = lambda: None
) -> list[tuple[int, str]]:
    driver = case.start()
    case.wait_for_step(KILLED_AT)
    kill_with_children(driver)
    change()
    return [(-signal.SIGKILL, ""), ended(case.start())]


def append_row(case: Case) -> None:
    with case.rows.open("a") as file:
        file.write(json.dumps({"text": "a warm and clever film", "label": "positive"}) + "\n")


def replace_base(case: Case) -> None:
    file = case.base / "model.safetensors"
    held = load_file(file)
    name = next(name for name, value in held.items() if value.is_floating_point())
    held[name] = held[name] * 1.01
    save_file(held, file, metadata={"format": "pt"})


def edit_deepspeed(case: Case) -> None:
    changed = {"zero_optimization": {"stage": 0}, "zero_allow_untested_optimizer": True}
    case.deepspeed.write_text(json.dumps(changed))


CHANGES = {"row": append_row, "base": replace_base, "deepspeed": edit_deepspeed}


def carry_out(case: Case, root: str, kind: str, seconds: float) -> Result:
    started = time.monotonic()
    if kind in CHANGES:
        done = restarted(case, seconds, lambda: CHANGES[kind](case))
    else:
        done = {"together": together, "stopped": stopped, "restarted": restarted}[kind](
            case, seconds
        )
    runs = [case.steps(run) for run in case.runs()]
    told = [said for code, said in done if code not in (0, -signal.SIGKILL)] or [done[-1][1]]
    result = Result(
        root,
        kind,
        [code for code, _ in done],
        [len(steps) for steps in runs],
        sum(count > 1 for steps in runs for count in steps.values()),
        time.monotonic() - started,
        line_with(TOLD[kind], told[0]),
    )
    result.right = is_right(result, runs)
    return result


def line_with(words: str, said: str) -> str:
    lines = [line for line in said.splitlines() if words in line]
    return lines[0] if lines else ""


def is_right(result: Result, runs: Sequence[Counter[int]]) -> bool:
    last = runs[-1]
    whole = sorted(last) == list(range(1, max(last) + 1))
    exits = sorted(result.exits)
    if TOLD[result.case] == OTHERS:
        expected = exits == [0, 1] and not result.twice
    else:
        expected = exits == [-signal.SIGKILL, 0]
    wanted = 2 if result.case in CHANGES else 1
    return whole and expected and bool(result.said) and len(runs) == wanted


@contextmanager
def storage(root: str, folder: Path) -> Iterator[str]:
    if root == "disk":
        yield str(folder / "storage")
        return
    os.environ.update(KEYS)
    store = ObjectStore()
    try:
        yield store.spec_url()
    finally:
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    cases = ("together", "stopped", "restarted", *CHANGES)
    parser.add_argument("--roots", nargs="+", choices=("disk", "s3"), default=["disk", "s3"])
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--seconds", type=float, default=120, help="that a driver is stopped")
    chosen = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    results = []
    for root in chosen.roots:
        with tempfile.TemporaryDirectory() as name, storage(root, Path(name)) as url:
            for kind in chosen.cases:
                folder = Path(name) / kind
                folder.mkdir()
                results.append(carry_out(Case(folder, url, kind), root, kind, chosen.seconds))
                print(results[-1], flush=True)
    rows = [[str(value) for value in vars(result).values()] for result in results]
    print(table(list(vars(results[0])), rows))
    sys.exit(0 if all(result.right for result in results) else 1)


if __name__ == "__main__":
    main()
