"""Promotes and rolls back a service under constant load, and kills its replicas and its proxy.

    python -m tests.bench.serving.upgrades [--callers 16] [--changes 10] [--kills 2]

The bench compares every answer with that of the version which the answer names. A request fails if
it gets no answer, another status than 200, or the answer of another version. If the connection is
refused or dropped, as while the proxy restarts, or the answer has Retry-After, callers try again
for up to 30 seconds; the bench counts these retries.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from ftray.store.deployments.promotion import promote, roll_back
from ftray.store.registry.registry import Registry
from tests.helpers.serving.served import served
from tests.helpers.serving.upgrades import ALIAS, NAME, Callers, answers_of, register_versions

VERSIONS = (1, 2, 3)
PATIENCE_S = 30.0


def main() -> None:
    options = _options()
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="upgrades-") as folder:
        registry = register_versions(Path(folder), len(VERSIONS))
        promote(registry, f"{NAME}:1", ALIAS)
        with served(f"{NAME}@{ALIAS}", f"--storage={folder}", "--replicas=2") as (url, server):
            callers = Callers(url, answers_of(registry, VERSIONS), PATIENCE_S)
            with callers.asking(options.callers):
                _upset(registry, callers, server, options)
    _report(callers)


def _upset(registry: Registry, callers: Callers, server: int, options: argparse.Namespace) -> None:
    current = 1
    kills = ["ray::ServeReplica"] * options.kills + ["haproxy"]
    for number in range(options.changes):
        if number % 3 == 2:
            current = roll_back(registry, NAME, ALIAS).model.version
        else:
            current = random.choice([v for v in VERSIONS if v != current])
            promote(registry, f"{NAME}:{current}", ALIAS)
        began = time.monotonic()
        callers.wait_for({current})
        print(f"version {current} answers after {time.monotonic() - began:.1f} s", flush=True)
        if kills and number >= 2:
            _kill(server, kills.pop(0))
            time.sleep(15)  # until the process is back


def _kill(server: int, name: str) -> None:
    """Sends SIGKILL to one of the processes of this name."""
    family = psutil.Process(server).children(recursive=True)
    found = [p for p in family if any(name in part for part in (p.name(), *p.cmdline()[:1]))]
    chosen = random.choice(found)
    print(f"SIGKILL to {chosen.name()}, one of {len(found)}", flush=True)
    chosen.kill()


def _report(callers: Callers) -> None:
    answered = Counter(version for _, version in callers.seen)
    gaps = sorted(when for when, _ in callers.seen)
    longest = max(b - a for a, b in zip(gaps, gaps[1:], strict=False))
    print(f"answered: {answered.total()} ({dict(answered)}), failed: {len(callers.wrong)}")
    print(f"tried again: {callers.tried_again}")
    print(f"longest time without any answer: {longest:.2f} s")
    for line, count in Counter(callers.wrong).most_common(5):
        print(f"  {count} x {line}")
    raise SystemExit(1 if callers.wrong else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A service that is upset, under load.")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--changes", type=int, default=10, help="promotions and rollbacks")
    parser.add_argument("--kills", type=int, default=2, help="of replicas; the proxy's comes after")
    return parser.parse_args()


if __name__ == "__main__":
    main()
