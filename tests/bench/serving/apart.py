"""Kills and restarts several services on one machine, under load.

    python -m tests.bench.serving.apart [--seconds 120] [--services 3] [--callers 2] [--seed 0]

No service may answer for another one, and none before its model gave its golden answers. The clock
begins when all services answer. The bench compares every answer with the answer of the service's
own model; each model has labels of its own. One start in four uses a model that does not give its
golden answers: such a start must end by itself without answering a request. Requests without an
answer and requests refused with a 503 are counted, and are no fault.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from ftray.models.inference.predictor import Predictor
from ftray.store.files.location import locate
from tests.helpers.models.tiny_model import make_model, tamper
from tests.helpers.serving.served import ftray_serve, quiet_port
from tests.helpers.serving.upgrades import CLOSE, TEXTS

START_S, END_S = 300.0, 120.0


@dataclass
class Service:
    """One service that the bench starts and kills.

    broken: whether the process that runs, or ran last, has the model that must never answer.
    """

    name: str
    folder: Path
    port: int
    said: list[dict[str, float]]
    """For each of TEXTS: label -> probability."""
    broken: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def made(cls, folder: Path, number: int) -> Service:
        name = f"model{number}"
        labels = [f"{name}-{label}" for label in ("bad", "good")]
        make_model(folder / name, name, labels, seed=number)
        shutil.copytree(folder / name, folder / f"{name}-broken")
        tamper(folder / f"{name}-broken")
        rows = Predictor(locate(str(folder / name))).answers(TEXTS, len(labels))
        said = [{item["label"]: item["score"] for item in row} for row in rows]
        return cls(name, folder, quiet_port(), said)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def upset(self, over: threading.Event, chance: random.Random) -> None:
        """Starts the service, maybe kills replicas, ends the service, and repeats."""
        while not over.is_set():
            self.broken = bool(self.counts["starts"]) and chance.random() < 0.25
            process = self._start()
            if self.broken:
                self.counts["refused starts"] += 1
                _, told = process.communicate(timeout=START_S)
                if process.returncode != 2 or "golden answers" not in told:
                    self.wrong.append(f"exit {process.returncode} of a broken model: {told[-300:]}")
                continue
            assert process.stdout is not None and process.stderr is not None
            if not process.stdout.readline():
                self.wrong.append(f"it did not start: {process.stderr.read()[-300:]}")
                return
            self.counts["starts"] += 1
            family = psutil.Process(process.pid).children(recursive=True)
            for _ in range(chance.randint(0, 2)):
                over.wait(chance.uniform(1, 6))
                self._kill_replica(process.pid)
            over.wait(chance.uniform(3, 15))
            self._end(process, family, chance.random() < 0.5)

    def _start(self) -> subprocess.Popen[str]:
        folder = self.folder / (f"{self.name}-broken" if self.broken else self.name)
        return ftray_serve(folder, self.port)

    def _kill_replica(self, server: int) -> None:
        for process in psutil.Process(server).children(recursive=True):
            with suppress(psutil.Error):
                if process.name().startswith("ray::ServeRepl"):
                    process.kill()
                    self.counts["replicas killed"] += 1

    def _end(
        self, process: subprocess.Popen[str], family: list[psutil.Process], kill: bool
    ) -> None:
        family += psutil.Process(process.pid).children(recursive=True)
        process.kill() if kill else process.terminate()
        self.counts["SIGKILL" if kill else "SIGTERM"] += 1
        process.communicate(timeout=END_S)
        _, alive = psutil.wait_procs(family, timeout=END_S)
        # Ray's agents look for their parent process only now and then; they answer no requests.
        left = [member.name() for member in alive if not member.name().endswith("Agent")]
        if left:
            self.wrong.append(f"left after its end: {left}")
        for member in alive:
            member.kill()

    def ask(self, over: threading.Event) -> None:
        place = 0
        while not over.is_set():
            place = (place + 1) % len(TEXTS)
            was_broken = self.broken
            try:
                # Each request opens a new connection, as httpx's module functions do.
                health = httpx.get(f"{self.url}/healthz", timeout=10)
                answer = httpx.post(
                    f"{self.url}/v1/predict",
                    json={"inputs": [TEXTS[place]], "top_k": 9},
                    timeout=10,
                )
            except httpx.HTTPError as error:
                self.counts[type(error).__name__] += 1
                time.sleep(0.05)
                continue
            self._look(health, answer, place, was_broken and self.broken)
            time.sleep(0.02)

    def _look(
        self, health: httpx.Response, answer: httpx.Response, place: int, broken: bool
    ) -> None:
        if health.status_code == 200 and (broken or health.json()["model"] != self.name):
            self.wrong.append(f"healthy: {health.text}")
        self.counts[f"status {answer.status_code}"] += 1
        if answer.status_code != 200:
            if answer.status_code != 503:
                self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
            return
        (row,) = answer.json()["outputs"]
        told = {item["label"]: item["score"] for item in row}
        known = self.said[place]
        same = told.keys() == known.keys()
        if broken or not same or max(abs(told[k] - known[k]) for k in known) > CLOSE:
            self.wrong.append(f"not its own answer (broken: {broken}): {answer.text}")


def main() -> None:
    options = _options()
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    over, chance = threading.Event(), random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="apart-") as folder, ThreadPoolExecutor(64) as pool:
        services = [Service.made(Path(folder), n) for n in range(options.services)]
        tasks = []
        for service in services:
            seeded = random.Random(chance.random())
            tasks.append(pool.submit(service.upset, over, seeded))
            tasks += [pool.submit(service.ask, over) for _ in range(options.callers)]
        while not all(service.counts["status 200"] or service.wrong for service in services):
            time.sleep(0.1)
        print("all answer", flush=True)
        over.wait(options.seconds)
        over.set()
        for task in tasks:
            task.result()
    wrong = 0
    for service in services:
        print(
            f"{service.name}: {dict(sorted(service.counts.items()))}, wrong: {len(service.wrong)}"
        )
        wrong += len(service.wrong)
        for line, count in Counter(service.wrong).most_common(5):
            print(f"  {count} x {line}")
    raise SystemExit(1 if wrong or not all(s.counts["status 200"] for s in services) else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Services on one machine, killed under load.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--services", type=int, default=3)
    parser.add_argument("--callers", type=int, default=2, help="of each service")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
