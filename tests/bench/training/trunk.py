"""The trunk cache with every task: samples per second of the training steps, with it and without.

    python -m tests.bench.training.trunk [--rows 480] [--only WORD]

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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftray.cluster.connection import configure, start_ray
from ftray.errors import FtrayError
from ftray.spec.load import parse
from ftray.store.files.location import locate
from ftray.train.check import check_inputs
from ftray.train.distributed.events import listening
from ftray.train.orders import WorkerArgs
from ftray.train.ray.local_worker import LocalWorker
from ftray.train.run import prepare
from tests.bench.common.measure import table
from tests.helpers.models.tiny_generator import make_base
from tests.helpers.task_kinds import KINDS, bases
from tests.helpers.task_kinds.kind import Kind

DEPTHS: tuple[int | str, ...] = (0, "top-quarter")
BERT: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536}  # fmt: skip
SIZES: dict[Any, dict[str, Any]] = {
    bases.bert: {"new_base": bases.MINILM, "base": lambda folder: folder},
    bases.decoder: {"base": lambda folder: make_base(folder, **BERT, num_key_value_heads=12)},
    bases.encoder_decoder: {"base": lambda folder: bases.encoder_decoder(folder, 384, 6)},
    bases.transformer: {"base": lambda folder: bases.transformer(folder, **BERT)},
    bases.item_decoder: {"new_base": "new://items", "base": lambda folder: folder},
}
"""Tiny base model -> what stands in its place."""


def compared(only: Sequence[str] | None) -> dict[str, Kind]:
    """One kind for each task and base model; of those that hide other tokens in each epoch, a
    second one that hides the same ones."""
    firsts = {(kind.task, kind.base, kind.new_base): name for name, kind in reversed(KINDS.items())}
    found = {name: kind for name, kind in KINDS.items() if name in firsts.values()}
    for name in ("hidden words", "hidden cells"):
        found[f"{name}, dynamic: false"] = replace(KINDS[name], options={"dynamic": False})
    return {name: kind for name, kind in found.items() if not only or name in only}


def large(kind: Kind) -> Kind:
    """The kind with a base model of the size of MiniLM."""
    if kind.new_base:
        return replace(kind, new_base=kind.new_base.partition("?")[0])
    return replace(kind, **SIZES.get(kind.base, {}))


def run(tree: dict[str, Any], worker: LocalWorker, folder: Path) -> list[dict[str, Any]]:
    """Trains without an export, and returns the events of the steps. Raises FtrayError."""
    steps: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            steps.append(event)

    prepared = prepare(check_inputs(parse(tree)), worker)
    with listening(listen) as sender:
        spec, place = prepared.checked.spec, locate(str(folder / tree["name"]))
        worker.train(WorkerArgs(spec, prepared.data, place, sender), prepared.for_trunk())
    return steps


def speed(steps: list[dict[str, Any]]) -> float:
    """Samples per second, without the first step."""
    return sum(s["rows"] for s in steps[1:]) / sum(s["seconds"] for s in steps[1:])


def measured(kind: Kind, folder: Path, rows: int, worker: LocalWorker) -> list[list[str]]:
    """A line of the table for each depth."""
    found = []
    settings = {"batch_size": 32, "micro_batch_size": 32, "epochs": 2, "trunk_precision": "fp32",
                "deepspeed": {"stage": 0}, "baselines": False, "learning_rate": 1e-4}  # fmt: skip
    folder.mkdir()
    for depth in DEPTHS:
        runs: dict[str, list[dict[str, Any]]] = {}
        try:
            for use in ("off", "on"):
                own = {**settings, "unfreeze": depth, "trunk_cache": use}
                tree = kind.tree(folder, rows=rows, train=own)
                runs[use] = run({**tree, "name": f"{use}-{depth}"}, worker, folder)
        except FtrayError as error:
            refused = "no cache" if runs else "not trained"
            found.append([str(depth), "", "", f"{refused}: {error.problems[0].problem}"])
            continue
        losses = ([step["loss"] for step in runs[use]] for use in ("on", "off"))
        gap = max(abs(a - b) for a, b in zip(*losses, strict=True))
        fast, slow = speed(runs["on"]), speed(runs["off"])
        same = f"losses within {gap:.0e}" if gap else "equal losses"
        gain = f"{fast / slow:.1f} times, {same}"
        found.append([str(depth), f"{fast:,.0f}", f"{slow:,.0f}", gain])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--only", nargs="*", help="names of kinds")
    options = parser.parse_args()
    configure()
    start_ray(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    lines = []
    with tempfile.TemporaryDirectory(prefix="ftray-trunk-") as temporary:
        worker = LocalWorker(0)
        for name, kind in compared(options.only).items():
            folder = Path(temporary) / name
            for line in measured(large(kind), folder, options.rows, worker):
                lines.append([f"{kind.task} ({name})", *line])
                print(*lines[-1], sep=" | ", flush=True)
        worker.close()
    print(table(["task", "trained", "with", "without", ""], lines))


if __name__ == "__main__":
    main()
