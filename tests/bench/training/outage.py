"""Makes the storage fail in every phase of a run: the run ends correctly or can be resumed.

    python -m tests.bench.training.outage [--seconds 60]
        [--phases start,steps,epoch,export,tune,promote]
                                 [--faults stopped,BUSY,CUT_UPLOADS] [--full-disk] [--out F.json]

Runs use two workers on moto's S3 with an MLflow server. In each phase the store is stopped, answers
503, or cuts uploads off, for `--seconds`. Afterwards the weights must be bit for bit those of an
undisturbed run, every step must be recorded, and MLflow must say FINISHED. When a command fails,
the bench repeats the same command once the store works again; that command must resume the run, not
begin a new one.

With --full-disk the storage root is instead a tmpfs of 100 MB (which takes the right to mount), on
which the run fails. Then the bench enlarges the tmpfs, and the same command must resume the run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from ftray.cluster.connection import configure
from ftray.errors import FtrayError
from ftray.spec.load import parse
from ftray.store.deployments.promotion import promote
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
from ftray.store.runs.folder import SPEC
from ftray.train.check import ValidatedSpec, check_inputs
from ftray.train.run import Trained, train
from ftray.tune.sweep import tune
from tests.bench.common.measure import table
from tests.helpers.external.mlflow_server import MlflowServer
from tests.helpers.external.object_store import KEYS, Fault, ObjectStore
from tests.helpers.training.small_runs import tree, weights, write_rows

ROWS, EPOCHS = 160, 3
CHANGES = {"epochs": EPOCHS, "checkpoint": {"every_steps": 4}}
MOMENTS = {"start": "", "steps": "step 6", "epoch": "epoch 1", "export": f"epoch {EPOCHS}"}
SPACE = {"train.learning_rate": {"choice": [1e-4, 5e-4]}, "train.epochs": {"choice": [1]}}


@dataclass
class Result:
    """The result of one disturbed run.

    tries: number of commands until one succeeded; goes_on: whether later commands resumed the first
    command's run.
    """

    phase: str
    fault: str
    tries: int
    seconds: float
    goes_on: bool
    right: bool
    mlflow: str
    said: str = ""


class Bench:
    """Runs all phases with one store and one MLflow server."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.rows = write_rows(folder / "rows.jsonl", ROWS)
        self.store = ObjectStore()
        self.server = MlflowServer(folder)
        self.server.start()
        os.environ["MLFLOW_TRACKING_URI"] = self.server.uri
        self.expected = weights(self._local(train(self._checked("undisturbed"))))

    def run(self, phase: str, fault: str) -> Result:
        """Disturbs one run in one phase."""
        if phase == "promote":
            return self._promote(fault)
        name = f"{phase}-{fault}".lower().replace("_", "-")
        sweeps = phase == "tune"
        runs: list[list[str]] = []
        trouble = _Trouble(lambda: self._fail(fault), "trial None" if sweeps else MOMENTS[phase])
        started, said, done = time.monotonic(), "", None
        while done is None and len(runs) < 5:
            checked = self._checked(name, tune_it=sweeps)
            trouble.begin()
            try:
                if sweeps:
                    done = tune(checked, listener=trouble.listen).trained
                else:
                    done = train(checked, listener=trouble.listen)
            except FtrayError as error:
                said = str(error)
            runs.append(self._run_ids(name))
            trouble.wait()
        ended = done is not None
        return Result(
            phase,
            fault,
            len(runs),
            time.monotonic() - started,
            len(runs[-1]) == 1,
            done is not None and (sweeps or self._is_right(done)),
            self._status(done) if ended and done is not None else "",
            said,
        )

    def close(self) -> None:
        self.server.kill()
        self.store.close()

    def _promote(self, fault: str) -> Result:
        """Promotes a model while the store fails.

        A person waits for this command, so it must report the fault soon; the same command succeeds
        later.
        """
        started = time.monotonic()
        ending = threading.Thread(target=self._fail, args=(fault,))
        ending.start()
        time.sleep(0.5)
        tries, said, seconds = 0, "", 0.0
        while tries < 3:
            tries += 1
            try:
                promote(Registry(open_root(self.store.url())), "undisturbed", fault.lower())
                break
            except FtrayError as error:
                said, seconds = str(error), seconds or time.monotonic() - started
                ending.join()
        ending.join()
        return Result("promote", fault, tries, seconds, True, tries < 3, "", said)

    def _fail(self, fault: str) -> None:
        if fault == "stopped":
            with self.store.stopped(self.seconds):
                return
        with self.store.failing(Fault[fault], self.seconds):
            return

    def _checked(self, name: str, tune_it: bool = False) -> ValidatedSpec:
        section = {"trials": 2, "space": SPACE, "refit": False}
        spec = tree(self.folder, name=name, storage=self.store.spec_url(), train=CHANGES)
        spec["data"]["train"] = str(self.rows)
        return check_inputs(parse({**spec, "tune": section} if tune_it else spec))

    def _run_ids(self, name: str) -> list[str]:
        found = self.store.at(f"root/runs/{name}").patient().children()
        return [run.name for run in found if (run / SPEC).is_file()]

    def _is_right(self, trained: Trained) -> bool:
        steps = [r["step"] for r in trained.run.metrics() if r["kind"] == "step"]
        ours = weights(self._local(trained))
        same = all(torch.equal(ours[key], value) for key, value in self.expected.items())
        return same and sorted(set(steps)) == list(range(1, max(steps) + 1))

    def _local(self, trained: Trained) -> Path:
        target = self.folder / trained.version.name
        trained.version.folder.download(target)
        return target

    def _status(self, trained: Trained) -> str:
        (run,) = [r for r in self.server.runs() if r.info.run_name == trained.run.run_id]
        return str(run.info.status)


class _Trouble:
    """A fault of the store that begins once, at a moment of the first try, and ends by itself."""

    def __init__(self, fail: Callable[[], None], moment: str) -> None:
        self._moment = moment
        self._thread = threading.Thread(target=fail)
        self._begun = False

    def begin(self) -> None:
        if not self._moment:
            self._start()

    def listen(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if self._moment in (f"{kind} {event.get(kind)}", f"{kind} None"):
            self._start()

    def wait(self) -> None:
        if self._begun:
            self._thread.join()

    def _start(self) -> None:
        if not self._begun:
            self._begun = True
            self._thread.start()


def full_disk(folder: Path) -> Result:
    """Trains on a disk of 100 MB, and again on the same disk enlarged to 1 GB."""
    disk = folder / "disk"
    disk.mkdir()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "ftray", str(disk)], check=True)
    try:
        spec = tree(folder, name="full", storage=str(disk / "root"), train=CHANGES)
        started, tries, said, trained = time.monotonic(), 0, "", None
        while trained is None and tries < 2:
            tries += 1
            try:
                trained = train(check_inputs(parse(spec)))
            except FtrayError as error:
                said = str(error)
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        runs = list((disk / "root" / "runs" / "full").glob(f"*/{SPEC}"))
        seconds, right = time.monotonic() - started, trained is not None
        return Result("full disk", "", tries, seconds, len(runs) == 1, right, "", said)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--phases", default="start,steps,epoch,export,tune,promote")
    parser.add_argument("--faults", default="stopped,BUSY,CUT_UPLOADS")
    parser.add_argument("--full-disk", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.update(KEYS)  # before Ray starts: its processes read the store, too
    configure()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    results = []
    with tempfile.TemporaryDirectory(prefix="outage-") as name:
        if chosen.full_disk:
            results.append(full_disk(Path(name)))
        else:
            bench = Bench(Path(name), chosen.seconds)
            for phase in chosen.phases.split(","):
                for fault in chosen.faults.split(","):
                    results.append(bench.run(phase, fault))
                    print(json.dumps(asdict(results[-1])), flush=True)
            bench.close()
    rows = [[str(value) for value in asdict(result).values()] for result in results]
    print(table(list(asdict(results[0])), rows))
    if chosen.out:
        chosen.out.write_text(json.dumps([asdict(result) for result in results], indent=2))
    os._exit(0 if all(result.right and result.goes_on for result in results) else 1)


if __name__ == "__main__":
    main()
