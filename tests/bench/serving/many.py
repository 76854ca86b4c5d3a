"""Compares many fine-tunes of one base in one process with one process for each.

    python -m tests.bench.serving.many [--models 16] [--trained 2] [--seconds 10]

Needs `wrk`. The one process shares what the fine-tunes have in common. The fine-tunes have MiniLM's
weights except for their heads and upper blocks, and answer the demo's reviews to 64 clients. In one
workload every request has another review and goes to the next model; in the other every review goes
to all models, one after the other. The one process has both cores, as have the many together.
Memory is the proportional set size of the replicas, which counts shared pages once.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from ftray.cluster.connection import configure
from ftray.serve.local.ingress import fast_ingress
from tests.bench.common.contest import stage
from tests.bench.common.measure import table
from tests.bench.common.wrk import check_wrk, load
from tests.helpers.models.tiny_model import make_model
from tests.helpers.serving.served import free_port

CLIENTS = 64
PathOf = Callable[[str], str]


def main() -> None:
    options = _options()
    check_wrk()
    os.environ.pop("RAY_ADDRESS", None)
    texts = _reviews()
    with tempfile.TemporaryDirectory(prefix="many-") as name, fast_ingress():
        configure()
        here = Path(name)
        models = [f"m{number}" for number in range(options.models)]
        for number, model in enumerate(models):
            make_model(here / model, model, seed=number, trained=options.trained)
        rows = []
        ways = {"a process each": _apart, "one process": _together}
        workloads = {"a review each": _each_its_own, "every review for all": _all_the_same}
        for arrangement, way in ways.items():
            with _serving(way, here, models) as (url, path_of):
                for kind, workload in workloads.items():
                    asked = [(path_of(m), {"inputs": t}) for m, t in workload(models, texts)]
                    found = load(url, asked, here, CLIENTS, options.seconds)
                    assert not found["errors"], found
                    told = [f"{found[key]:.0f}" for key in ("rate", "p50", "p99")]
                    rows.append([arrangement, kind, *told, f"{_megabytes():.0f}"])
                    print(" ".join(rows[-1]), flush=True)
    print(table(["", "requests", "a second", "p50 ms", "p99 ms", "MB"], rows))


def _apart(here: Path, models: Sequence[str]) -> PathOf:
    _run({m: {"model": str(here / m), "cpus_per_replica": 0.1} for m in models})
    return lambda model: f"/{model}/v1/predict"


def _together(here: Path, models: Sequence[str]) -> PathOf:
    _run({"": {"model": [str(here / m) for m in models], "cpus_per_replica": 2}})
    return lambda model: f"/v1/models/{model}/predict"


def _run(applications: dict[str, dict[str, Any]]) -> None:
    """Runs one Serve application per entry. applications: route -> arguments of the builder."""
    from ray import serve

    from ftray.serve.app import build

    targets = [
        serve.RunTarget(
            build({**arguments, "auth": False}), name=f"app{route}", route_prefix=f"/{route}"
        )
        for route, arguments in applications.items()
    ]
    serve.run_many(targets)


@contextmanager
def _serving(
    way: Callable[[Path, Sequence[str]], PathOf], here: Path, models: Sequence[str]
) -> Iterator[tuple[str, PathOf]]:
    from ray import serve

    port = free_port()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
        yield f"http://127.0.0.1:{port}", way(here, models)
    finally:
        serve.shutdown()
        ray.shutdown()


def _each_its_own(models: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, text in enumerate(texts):
        yield models[place % len(models)], text


def _all_the_same(models: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        for model in models:
            yield model, text


def _reviews() -> list[str]:
    with stage(600, 1, held_out=512) as here:
        lines = Path(str(here.spec.data.test)).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def _megabytes() -> float:
    found = (p for p in psutil.Process().children(recursive=True) if _is_replica(p))
    return sum(process.memory_full_info().pss for process in found) / 2**20


def _is_replica(process: psutil.Process) -> bool:
    return any(word.startswith("ray::ServeReplica") for word in process.cmdline()[:1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many fine-tunes of one base, served.")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--trained", type=int, default=2, help="upper blocks of each")
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    return parser.parse_args()


if __name__ == "__main__":
    main()
