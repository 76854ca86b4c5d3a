"""Two sweeps at once on an MLflow server that PostgreSQL backs, while the server is killed and
started again: nothing is missing in MLflow, and no run stays RUNNING.

    python -m tests.bench.sweeps.tracking [--trials 6] [--down 8] [--keep FOLDER]

Needs PostgreSQL (initdb, pg_ctl, the user `postgres` where this user is root) and psycopg2-binary.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ftray.errors import masked
from ftray.spec.load import parse
from ftray.store.database import import_quietly
from ftray.train.record.values import parameters
from ftray.tune.space import trial_spec
from tests.helpers.external.mlflow_server import MlflowServer, below, free_port
from tests.helpers.training.small_runs import tree

SPACE = {
    "train.learning_rate": {"loguniform": [1e-4, 2e-3]},
    "train.unfreeze": {"choice": [0, 1, 2]},
}
NAMES = ("first", "second")


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Yield the URI of a database in a PostgreSQL of its own, on loopback."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/usr/local/bin")]
    binaries, data, port = found[-1], folder / "postgres", free_port()
    prefix: list[str] = []
    data.mkdir()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(data, "postgres", "postgres")
        folder.chmod(0o755)
        prefix = ["runuser", "-u", "postgres", "--"]

    def call(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, cwd="/", stdout=subprocess.DEVNULL)

    call(str(binaries / "initdb"), "-D", str(data), "-U", "mlflow", "-A", "trust")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -k {data}"
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", str(data / "log")]
    call(*control, "-o", settings, "start")
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        call(*control, "-m", "fast", "stop")


def start(folder: Path, name: str, trials: int, uri: str) -> subprocess.Popen[str]:
    section = {"trials": trials, "space": SPACE, "scheduler": "fifo"}
    made = tree(folder, name=name, storage=str(folder / name), tune=section)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(made))
    command = [sys.executable, "-m", "ftray", "tune", str(path), "--json"]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        )


def ended_trials(folder: Path) -> int:
    files = folder.glob("runs/*/*/metrics.jsonl")
    return sum(file.read_text().count('"status":"done"') for file in files)


def check(uri: str, folder: Path) -> list[str]:
    """Compare MLflow with the run's own record. Returns the faults."""
    (record,) = folder.glob("runs/*/2*/metrics.jsonl")
    spec = parse(masked(yaml.safe_load((record.parent / "spec.yaml").read_text())))
    parent, shown = below(uri, record.parent.name)
    client = import_quietly()(uri, uri)
    faults = [f"{r.info.run_name} is {r.info.status}" for r in (parent, *shown.values())
              if r.info.status != "FINISHED"]  # fmt: skip
    events = [json.loads(line) for line in record.read_text().splitlines()]
    trials = {e["id"]: e for e in events if e["kind"] == "trial" and e["status"] == "done"}
    if {f"trial {name}" for name in trials} != shown.keys():
        faults.append(f"trials {sorted(trials)} are {sorted(shown)} in MLflow")
    faults += differing(parent.data.params, parameters(spec), "the sweep")

    def told(run: Any, kept: list[dict[str, Any]], who: str) -> list[str]:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        found = [(point.step, point.value) for point in history]
        expected = [(e["step"], e["loss"]) for e in kept if e["kind"] == "step"]
        return [] if sorted(found) == sorted(expected) else [f"{who}: other steps in MLflow"]

    for name, event in trials.items():
        run = shown[f"trial {name}"]
        points = [p for e in events if e["kind"] == "trial" and e["id"] == name
                  for p in e.get("points", ())]  # fmt: skip
        faults += differing(run.data.params, parameters(trial_spec(spec, event["config"])), name)
        faults += told(run, points, f"trial {name}")
    faults += told(parent, events, "the winner")
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    return faults + [f"no {name}" for name in ("spec.yaml", "report.html", "README.md")
                     if name not in files]  # fmt: skip


def differing(found: dict[str, str], expected: dict[str, Any], who: str) -> list[str]:
    return [f"{who}: {key} = {found.get(key)} instead of {value}"
            for key, value in expected.items() if found.get(key) != str(value)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--down", type=float, default=8.0, help="seconds without a server")
    parser.add_argument("--keep", type=Path, help="a folder to keep the server's data in")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="ftray-tracking-"))
    folder.mkdir(exist_ok=True)
    with postgres(folder) as database:
        server = MlflowServer(folder, database)
        server.start()
        began = time.monotonic()
        sweeps = [start(folder, name, options.trials, server.uri) for name in NAMES]
        while not all(ended_trials(folder / name) for name in NAMES):
            assert all(sweep.poll() is None for sweep in sweeps), "a sweep ended early"
            time.sleep(0.2)
        server.kill()
        print(f"the server is killed after {time.monotonic() - began:.0f} s", flush=True)
        time.sleep(options.down)
        server.start()
        for sweep in sweeps:
            sweep.communicate()
        codes = [sweep.returncode for sweep in sweeps]
        print(f"both sweeps ended after {time.monotonic() - began:.0f} s, with {codes}")
        faults = {name: check(server.uri, folder / name) for name in NAMES}
        for name, found in faults.items():
            print(f"{name}: {found or 'nothing is missing, nothing is RUNNING'}")
        if options.keep:
            print(f"MLflow's page: {server.uri} (Enter ends it)", flush=True)
            sys.stdin.readline()
        server.kill()
    raise SystemExit(any(codes) or any(faults.values()))


if __name__ == "__main__":
    main()
