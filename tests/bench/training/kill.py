"""Kills runs at random moments, again and again. Every run must end as if it had never been killed.

    python -m tests.bench.training.kill [--kills 50] [--per-run 8] [--seed 0] [--elastic]
        [--out F.json]

Runs `ftray train` on a Ray cluster with two nodes on this machine, one worker per node. SIGKILL
hits a worker, the driver, or a whole node: during steps, in an evaluation, or while a checkpoint is
being written. After each kill the run resumes; after the driver's death the same command resumes
it. At the end the weights and every recorded loss must be bit for bit those of an uninterrupted
run. With --elastic the run continues with one worker while a node is away, and ends within
rounding: 1e-4 for a weight, 1e-5 for a loss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.cluster_utils import Cluster

from tests.bench.common.measure import table
from tests.helpers.training.small_runs import losses, tree, weights

KINDS = ("worker", "driver", "node")
MOMENTS = ("step", "evaluation", "checkpoint")
STEPS_AN_EPOCH = 20
CHANGES: dict[str, Any] = {
    "train": {"checkpoint": {"every_steps": 4}},
    "scale": {"workers": 2, "max_failures": 100},
}
ELASTIC = {**CHANGES, "scale": {"workers": {"min": 1, "max": 2}, "max_failures": 100}}
TOLERANCE = {"weights": 1e-4, "losses": 1e-5}
# By default Ray takes half a minute to notice a lost node, and Ray Train waits another minute for
# the lost node. These settings shorten both.
NOTICED_SOON = {"health_check_period_ms": 1000, "health_check_failure_threshold": 2}
PATIENCE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8"}


@dataclass
class Victim:
    """A run that the bench kills again and again, on a cluster whose second node may die too."""

    folder: Path
    name: str
    cluster: Cluster
    nodes: list[Any]
    elastic: bool = False
    log: Path = field(init=False)
    driver: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        changes = ELASTIC if self.elastic else CHANGES
        spec = tree(self.folder, name=self.name, storage=str(self.folder / self.name), **changes)
        self.spec = self.folder / f"{self.name}.yaml"
        self.spec.write_text(yaml.safe_dump(spec))
        self.log = self.folder / f"{self.name}.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "ftray", "train", str(self.spec), "--json"]
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address, **PATIENCE}
        environment.pop("FTRAY_STORAGE", None)
        with self.log.open("a") as log:
            self.driver = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )

    @property
    def run_dir(self) -> Path | None:
        return next(self.folder.glob(f"{self.name}/runs/*/*/status.json"), Path()).parent

    def steps(self) -> list[int]:
        """Return the steps trained so far, repeated ones among them, in the order of training."""
        files = list(self.folder.glob(f"{self.name}/runs/*/*/metrics.jsonl"))
        lines = files[0].read_text().splitlines() if files else []
        # The last line may be in the middle of being written.
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event["step"] for event in events if event["kind"] == "step"]

    def last_step(self) -> int:
        return (self.steps() or [0])[-1]

    def writing(self) -> bool:
        return any(self.folder.glob(f"{self.name}/runs/*/*/checkpoints/.part-*"))

    def over(self) -> bool:
        return self.driver is not None and self.driver.poll() is not None

    def kill(self, kind: str, random_: random.Random) -> bool:
        """Kills one victim of this kind. False if there was no process to kill."""
        assert self.driver is not None
        if not self.nodes:
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        if kind == "driver":
            self.driver.kill()
            self.driver.communicate()
            self.start()
        elif kind == "node":
            self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
            if not self.elastic:
                self.nodes.append(self.cluster.add_node(num_cpus=1))
        else:
            found = [p for p in psutil.process_iter(["cmdline"]) if _is_worker(p)]
            if not found:
                return False
            random_.choice(found).kill()
        return True

    def result(self) -> dict[str, Any]:
        assert self.driver is not None
        try:
            stdout, _ = self.driver.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{self.name} hangs:\n{self.log.read_text()[-4000:]}") from None
        if self.driver.returncode:
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-4000:]}")
        return json.loads(stdout.splitlines()[-1])


def main() -> None:
    options = _options()
    random_ = random.Random(options.seed)
    tally: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name)
        head = {"num_cpus": 1, "_system_config": NOTICED_SOON}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=1)]
        try:
            whole = Victim(folder, "whole", cluster, nodes)
            whole.start()
            expected = whole.result()
            runs = 0
            while sum(tally.values()) < options.kills:
                runs += 1
                victim = Victim(folder, f"killed-{runs}", cluster, nodes, options.elastic)
                _torment(victim, options, random_, tally)
                gaps = compare(victim.result(), expected, options.elastic)
                said = f"{sum(tally.values())} kills, {runs} runs, the last one off by {gaps}"
                print(said, file=sys.stderr)
        finally:
            cluster.shutdown()
    print(report(tally, runs))
    if options.out:
        rows = [{"kind": k, "moment": m, "kills": n} for (k, m), n in tally.items()]
        Path(options.out).write_text(json.dumps({"runs": runs, "kills": rows}, indent=2) + "\n")


def _torment(
    victim: Victim,
    options: argparse.Namespace,
    random_: random.Random,
    tally: Counter[tuple[str, str]],
) -> None:
    victim.start()
    for _ in range(min(options.per_run, options.kills - sum(tally.values()))):
        kind, moment = random_.choice(KINDS), random_.choice(MOMENTS)
        if not _await(victim, moment, random_):
            return
        if victim.kill(kind, random_):
            tally[kind, moment] += 1
            print(f"{victim.name}: {kind}, {moment}, step {victim.last_step()}", file=sys.stderr)


def _await(victim: Victim, moment: str, random_: random.Random) -> bool:
    """Waits until the run has progressed since the last kill and the moment has come.

    False if the run ends first.
    """
    before, deadline = len(victim.steps()), time.monotonic() + 240
    moved_at, delay = 0.0, random_.uniform(0, 2)
    while not victim.over():
        if time.monotonic() > deadline:
            raise SystemExit(f"{victim.name} does not go on:\n{victim.log.read_text()[-4000:]}")
        if not moved_at and len(victim.steps()) > before + 1:
            moved_at = time.monotonic()
        if moved_at and _is_there(victim, moment, time.monotonic() - moved_at - delay):
            return True
        time.sleep(0.002)
    return False


def _is_there(victim: Victim, moment: str, waited: float) -> bool:
    if moment == "checkpoint":
        return victim.writing()
    if moment == "evaluation":
        # Events arrive at most a third of a second late; by then the evaluation has begun.
        return victim.last_step() % STEPS_AN_EPOCH == 0
    return waited > 0


def compare(found: dict[str, Any], expected: dict[str, Any], elastic: bool) -> dict[str, float]:
    """The largest differences from the uninterrupted run. Exits where a difference is too large."""
    mine, theirs = weights(found["model_dir"]), weights(expected["model_dir"])
    known, made = losses(expected["run_dir"]), losses(found["run_dir"])
    gaps = {
        "weights": max((mine[key] - theirs[key]).abs().max().item() for key in theirs),
        "losses": max(abs(known[step] - loss) for step, loss in made.items()),
    }
    allowed = TOLERANCE if elastic else dict.fromkeys(TOLERANCE, 0.0)
    if any(not gap <= allowed[what] for what, gap in gaps.items()):  # NaN fails this comparison too
        raise SystemExit(f"{found['run']} differs from the uninterrupted run: {gaps}")
    if not elastic and found["metrics"]["test"] != expected["metrics"]["test"]:
        raise SystemExit(f"{found['run']}: the test metrics differ")
    return gaps


def report(tally: Counter[tuple[str, str]], runs: int) -> str:
    rows = [
        [
            kind,
            *(str(tally[kind, moment]) for moment in MOMENTS),
            str(_of(tally, kind)),
        ]
        for kind in KINDS
    ]
    total = sum(tally.values())
    said = f"{total} kills in {runs} runs: all ended as the uninterrupted run did"
    return table(["killed", *(f"during {m}" for m in MOMENTS), "in all"], rows) + f"\n\n{said}"


def _of(tally: Counter[tuple[str, str]], kind: str) -> int:
    return sum(count for (killed, _), count in tally.items() if killed == kind)


def _is_worker(process: psutil.Process) -> bool:
    return "RayTrainWorker" in " ".join(process.info["cmdline"] or [])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill runs at random moments.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--per-run", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elastic", action="store_true", help="go on without a lost node")
    parser.add_argument("--out", help="JSON file for the counts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
