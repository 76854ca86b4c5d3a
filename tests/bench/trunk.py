"""The trunk cache with every task: samples per second of the training steps, with it and without.

    python -m tests.bench.trunk [--rows 480] [--only WORD]

Each task trains a model of the size of MiniLM, six blocks of width 384, on rows of
tests/helpers/task_kinds; tasks on text read MiniLM itself. Tables and histories have the models
that ftray makes for them. Each trains its head alone, and its top quarter: once from cached hidden
states in fp32, after the cache is filled, and once without. The losses of the steps must be the
same. Where the cache is refused, the table has the reason.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftray.cluster.connection import configure, start_ray
from ftray.errors import FtrayError
from ftray.spec.load import parse
from ftray.train.check import check_inputs
from ftray.train.ray.local_worker import LocalWorker
from ftray.train.run import train
from tests.bench.measure import table
from tests.helpers.task_kinds import KINDS, bases
from tests.helpers.task_kinds.kind import Kind
from tests.helpers.tiny_generator import make_base

DEPTHS: tuple[int | str, ...] = (0, "top-quarter")
BERT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536}  # fmt: skip
SIZES: dict[Any, dict[str, Any]] = {
    bases.bert: {"new_base": bases.MINILM},
    bases.decoder: {"base": lambda folder: make_base(folder, **BERT, num_key_value_heads=12)},
    bases.encoder_decoder: {"base": lambda folder: bases.encoder_decoder(folder, 384, 6)},
    bases.transformer: {"base": lambda folder: bases.transformer(folder, **BERT)},
    bases.item_decoder: {"new_base": "new://items"},
}
"""Tiny base model -> what stands in its place."""


def large(kind: Kind) -> Kind:
    """The kind with a base model of the size of MiniLM."""
    if kind.new_base:
        return replace(kind, new_base=kind.new_base.partition("?")[0])
    return replace(kind, **SIZES.get(kind.base, {}))


def run(tree: dict[str, Any], worker: LocalWorker | None) -> list[dict[str, Any]]:
    """Trains, and returns the events of the steps. Raises FtrayError."""
    steps: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            steps.append(event)

    train(check_inputs(parse(tree)), listener=listen, worker=worker)
    return steps


def speed(steps: list[dict[str, Any]]) -> float:
    """Samples per second, without the first step."""
    return sum(s["rows"] for s in steps[1:]) / sum(s["seconds"] for s in steps[1:])


def measured(kind: Kind, folder: Path, rows: int, worker: LocalWorker | None) -> list[list[str]]:
    """A line of the table for each depth."""
    found = []
    settings = {"batch_size": 32, "micro_batch_size": 32, "epochs": 3, "trunk_precision": "fp32",
                "deepspeed": {"stage": 0}, "baselines": False, "learning_rate": 1e-4}  # fmt: skip
    for depth in DEPTHS:
        runs: dict[str, list[dict[str, Any]]] = {}
        for use in ("off", "on"):
            own = {**settings, "unfreeze": depth, "trunk_cache": use}
            tree = kind.tree(folder, rows=rows, train=own)
            try:
                runs[use] = run({**tree, "name": f"{use}-{depth}"}, worker)
            except FtrayError as error:
                found.append([str(depth), "", "", error.problems[0].problem])
                break
        else:
            losses = ([step["loss"] for step in runs[use]] for use in ("on", "off"))
            gap = max(abs(a - b) for a, b in zip(*losses, strict=True))
            fast, slow = speed(runs["on"]), speed(runs["off"])
            figures = [f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f} times"]
            found.append([str(depth), *figures[:2], f"{figures[2]}; losses within {gap:.0e}"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    options = parser.parse_args()
    configure()
    start_ray(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    kinds = {name: kind for name, kind in KINDS.items() if options.only in name}
    lines = []
    with tempfile.TemporaryDirectory(prefix="ftray-trunk-") as temporary:
        worker = LocalWorker(0)
        for name, kind in kinds.items():
            folder = Path(temporary) / name
            for line in measured(large(kind), folder, options.rows, worker):
                lines.append([f"{kind.task} ({name})", *line])
                print(*lines[-1], sep=" | ", flush=True)
        worker.close()
    print(table(["task", "trained", "with", "without", ""], lines))


if __name__ == "__main__":
    main()
