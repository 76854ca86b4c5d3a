"""Measures the time of a command before its first step and after its last step.

    python -m tests.bench.training.startup [--rows 300] [--repeats 3] [--only NAME ...]
        [--against CHECKOUT] [--out F.json]

Measures `ftray train` with one worker and with two, `ftray tune` until its first trial, and a
script with the Hugging Face Trainer that trains on the same rows. Every run is a command of its own
in a fresh storage root, and contenders take turns. `--against` also measures the ftray of another
checkout. The moments come from a run's lines, files and events in metrics.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from ftray.models.pretrained import find_pretrained
from ftray.spec.load import dump, load, override
from tests.bench.common.contest import ROOT, SCRIPTS
from tests.bench.common.measure import Sample, table
from tests.helpers.training.small_runs import MODEL, write_rows

LOOK_EVERY_S = 0.01
MOMENTS = (
    "first line",
    "rows read",
    "Ray up",
    "encoded",
    "first trial",
    "workers up",
    "first step",
    "last step",
    "exported",
    "exit",
)
Moments = dict[str, float]


@dataclass(frozen=True)
class Contender:
    """A command on one spec. `checkout`: the root of its ftray."""

    name: str
    verb: str
    workers: int = 1
    checkout: Path = ROOT


def contenders(against: Path | None) -> list[Contender]:
    found = [Contender("HF Trainer", "hf")]
    for checkout, where in ((ROOT, ""), (against, " (against)")):
        if checkout is not None:
            found += [
                Contender(f"train, 1 worker{where}", "train", 1, checkout),
                Contender(f"train, 2 workers{where}", "train", 2, checkout),
                Contender(f"tune{where}", "tune", 1, checkout),
            ]
    return found


def main() -> None:
    options = _options()
    chosen = [c for c in contenders(options.against) if not options.only or c.name in options.only]
    runs: list[dict[str, Any]] = []
    for turn in range(options.repeats):
        for contender in chosen if turn % 2 == 0 else chosen[::-1]:
            moments = measure(contender, options.rows)
            runs.append({"contender": contender.name, "load": os.getloadavg()[0], **moments})
            shown = ", ".join(f"{name} {at:.1f}" for name, at in moments.items())
            print(f"{contender.name}: {shown}", file=sys.stderr, flush=True)
    print(report(runs))
    if options.out:
        Path(options.out).write_text(json.dumps(runs, indent=2) + "\n")


def report(runs: list[dict[str, Any]]) -> str:
    """Median seconds since the start of the command.

    `fixed` is all but the time from first to last step.
    """
    names = list(dict.fromkeys(run["contender"] for run in runs))
    rows = []
    for moment in (*MOMENTS, "fixed"):
        found = [
            [run[moment] for run in runs if run["contender"] == n and moment in run] for n in names
        ]
        cells = [Sample(tuple(values)).median_and_range(1) if values else "" for values in found]
        if any(cells):
            rows.append([moment, *cells])
    return table(["seconds", *names], rows)


def measure(contender: Contender, rows: int) -> Moments:
    """Runs the command once. Returns the seconds from its start to each moment."""
    with tempfile.TemporaryDirectory(prefix="su-", dir="/tmp") as name:
        folder = Path(name)
        command = _command(contender, write_spec(folder, contender, rows))
        environment = {
            **os.environ,
            "PYTHONPATH": str(contender.checkout),
            "RAY_TMPDIR": str(folder),
            "HF_DATASETS_CACHE": str(folder / "datasets"),
        }
        for variable in ("RAY_ADDRESS", "FTRAY_STORAGE", "MLFLOW_TRACKING_URI"):
            environment.pop(variable, None)
        watch = _Watch(folder)
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said = watch.follow(process)
        if process.returncode:
            raise SystemExit(f"{contender.name} ended with {process.returncode}:\n{said}")
        return watch.moments_of(contender)


def write_spec(folder: Path, contender: Contender, rows: int) -> Path:
    """Writes the spec. The Hugging Face script reads the resolved one."""
    files = {
        split: str(write_rows(folder / f"{split}.jsonl", count, seed))
        for seed, (split, count) in enumerate(
            (("train", rows), ("validation", rows // 5), ("test", rows // 5))
        )
    }
    tree: dict[str, Any] = {
        "name": "startup",
        "storage": str(folder / "storage"),
        "model": {"name_or_path": MODEL},
        "data": {**files, "max_length": 32},
        "train": {
            "epochs": 1,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "unfreeze": 2,
            "schedule": "linear",
            "warmup": 0.1,
            "precision": "fp32",
        },
        "scale": {"workers": contender.workers},
    }
    if contender.verb == "tune":
        space = {"train.learning_rate": {"choice": [1e-4, 5e-4]}}
        tree["tune"] = {"trials": 2, "space": space, "refit": False}
    short, whole = folder / "short.yaml", folder / "spec.yaml"
    short.write_text(yaml.safe_dump(tree))
    if contender.verb != "hf":
        return short
    spec = load(short)
    model = str(find_pretrained(spec.model).folder)  # the script knows folders only
    whole.write_text(dump(override(spec, {"model.name_or_path": model})))
    return whole


def _command(contender: Contender, spec: Path) -> list[str]:
    if contender.verb == "hf":
        return [sys.executable, str(SCRIPTS / "hf_trainer.py"), str(spec)]
    return [sys.executable, "-m", "ftray", contender.verb, str(spec), "--json"]


class _Watch:
    """Records when things happen to a command whose files lie below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._began = time.time()
        self._at: Moments = {}
        self._events: list[dict[str, Any]] = []
        self._read = 0

    def follow(self, process: subprocess.Popen[bytes]) -> str:
        """Watches until the process ends. Returns its stderr."""
        lines: list[str] = []
        assert process.stdout is not None and process.stderr is not None
        out: list[bytes] = []
        readers = [
            threading.Thread(target=self._lines, args=(process.stderr, lines)),
            threading.Thread(
                target=lambda stream: out.append(stream.read()), args=(process.stdout,)
            ),
        ]
        for reader in readers:
            reader.start()
        while process.poll() is None:
            self._look()
            time.sleep(LOOK_EVERY_S)
        self._look()
        self._note("exit")
        for reader in readers:
            reader.join()
        self.result = json.loads(out[0].splitlines()[-1]) if out[0].strip() else {}
        return "".join(lines)

    def moments_of(self, contender: Contender) -> Moments:
        at = self._at
        if contender.verb == "hf":
            at["first step"] = self.result["first_step_at"] - self._began
            at["last step"] = self.result["last_step_at"] - self._began
        if "first step" in at and "last step" in at:
            at["fixed"] = at["exit"] - (at["last step"] - at["first step"])
        return {name: round(at[name], 2) for name in (*MOMENTS, "fixed") if name in at}

    def _lines(self, stream: IO[bytes], kept: list[str]) -> None:
        for line in stream:
            kept.append(line.decode(errors="replace"))
            self._note("first line")
            if "rows read" in kept[-1]:
                self._note("rows read")

    def _look(self) -> None:
        self._once("Ray up", lambda: self._any("ray/session_*/sockets/raylet"))
        self._once("encoded", lambda: self._any("storage/cache/data/*/manifest.json"))
        self._once("exported", lambda: self._any("storage/models/*/*/ftray.json"))
        for event in self._news():
            if event["kind"] == "trial":
                self._note("first trial")
            elif event["kind"] == "start":
                self._note("workers up")
            elif event["kind"] == "step":
                self._note("first step")
                self._at["last step"] = time.time() - self._began

    def _any(self, pattern: str) -> bool:
        return next(self._folder.glob(pattern), None) is not None

    def _once(self, moment: str, happened: Callable[[], bool]) -> None:
        if moment not in self._at and happened():
            self._note(moment)

    def _note(self, moment: str) -> None:
        self._at.setdefault(moment, time.time() - self._began)

    def _news(self) -> Iterable[dict[str, Any]]:
        for file in self._folder.glob("storage/runs/*/*/metrics.jsonl"):
            whole = file.read_bytes()[self._read :].rpartition(b"\n")[0]
            self._read += len(whole) + (1 if whole else 0)
            yield from map(json.loads, whole.splitlines())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a run costs besides its steps.")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--against", type=Path, help="the root of another checkout")
    parser.add_argument("--out", help="JSON file for the moments of every run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
