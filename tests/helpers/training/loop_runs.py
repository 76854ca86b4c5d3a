"""Runs the training loop on real DeepSpeed without Ray, in a process group of its own.

`train_group` starts the processes. Each process makes the same runs one after the other, as one
process does for the trials of a sweep, and writes below the root folder

    NAME/step-N/            the resume checkpoints, one every `Run.every` steps
    NAME/final.safetensors  all parameters and buffers at the end
    NAME/rank-N.json        what rank N observed, see `Seen`
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

LABELS = ("bad", "good", "mixed")
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Run:
    """One run: the spec's train section, the data, and the checkpoint to resume from."""

    name: str
    train: dict[str, Any]
    rows: int = 35
    dropout: float = 0.1
    resume: str = ""
    """NAME/STEP of an earlier run."""
    stop_after: int = 0
    """The step during which the last rank is asked to stop; 0 for never."""
    every: int = 3
    """Steps between checkpoints."""
    trunk: str = ""
    """bf16 or fp32: cuts the frozen blocks off and keeps their hidden states in that precision.
    Empty: no trunk cache."""
    model: str = "bert"
    """A model family, `normed` or `experts`.

    normed: BERT with BatchNorm; experts: BERT with expert layers, each used by few rows.
    """
    kind: str = ""
    """A key of `task_kinds.KINDS`, which then makes rows and model; empty for a classifier."""
    apart: bool = False
    """Whether the workers cannot share memory, as those of different machines."""


@dataclass
class Seen:
    """Records of one rank about a run. Losses and rates are per step, metrics per epoch."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    trainable: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    """Parameters and buffers that differ from the base model in at least one bit."""
    phases: list[int] = field(default_factory=list)
    """The step at which each phase began."""
    dropping: list[str] = field(default_factory=list)
    """Dropout modules that are active at the end of the run."""
    digest: str = ""
    """SHA-256 over all parameters and buffers at the end."""
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    skipped: int = 0
    timed: list[dict[str, float]] = field(default_factory=list)
    """Of each step: the seconds of its phases, and of the whole step under `step`."""
    touched: bool = False
    """Whether a parameter changed after the last reported step."""


class Tokenizer:
    """The parts of a tokenizer that tasks read of one whose rows are encoded."""

    pad_token_id = 0
    all_special_ids: tuple[int, ...] = ()


def task_setup(labels: Sequence[str] = LABELS) -> Any:
    """Setup of a task whose rows are encoded."""
    from ftray.tasks.base import TaskSetup
    from ftray.tasks.schema import Schema

    return TaskSetup(Tokenizer(), Schema(labels=tuple(labels)), max_length=20)


def random_split(rows: int, seed: int, closed: bool = False) -> Any:
    """An EncodedSplit of random rows of a text classifier.

    closed: each row ends with the token at which encoder-decoders read the answer.
    """
    from tests.helpers.models.encoded import split_of

    random = np.random.default_rng(seed)
    lengths = random.integers(3, 20, rows)
    labels = random.integers(0, len(LABELS), rows)
    ids = [random.integers(5, 97, length) for length in lengths]
    if closed:
        for row in ids:
            row[-1] = 2
    return split_of(ids, labels)


@dataclass(frozen=True)
class Data:
    """Stands in for EncodedDataset: gives splits by name."""

    rows: int
    closed: bool = False

    def load(self, split: str) -> Any:
        rows, seed = {"train": (self.rows, 0), "validation": (19, 1)}[split]
        return random_split(rows, seed, self.closed)


def checkpoint(root: Path, reference: str) -> Path:
    """The folder of a checkpoint, from NAME/STEP."""
    name, _, step = reference.partition("/")
    return root / name / f"step-{int(step):08d}"


def make_spec(run: Run, world: int) -> Any:
    from ftray.spec.load import parse

    base = {"name": "run", "model": {"name_or_path": "unused"}, "data": {"train": "unused"}}
    train = {**run.train, "trunk_precision": run.trunk or "bf16"}
    return parse({**base, "train": train, "scale": {"workers": world}})


def make_model(run: Run) -> Any:
    from tests.helpers.models.odd_networks import with_batch_norm, with_experts
    from tests.helpers.models.tiny_networks import tiny_network

    changed = {"normed": with_batch_norm, "experts": with_experts}.get(run.model)
    named = {"bart": "dropout", "t5": "dropout_rate"}.get(run.model)
    dropouts = [named] if named else ["hidden_dropout_prob", "attention_probs_dropout_prob"]
    family = "bert" if changed else run.model
    model = tiny_network(family, **dict.fromkeys(dropouts, run.dropout))
    return changed(model) if changed else model


def train_group(root: Path, world: int, runs: Sequence[Run]) -> None:
    """Makes the runs with `world` data-parallel processes."""
    orders = root / f"group-of-{world}.json"
    orders.write_text(json.dumps([asdict(run) for run in runs]))
    # Without these variables DeepSpeed searches for MPI. The processes meet in a file, not at a
    # port.
    where = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    # Logs go to files: a process that fills a pipe nobody reads would block the others.
    logs = [root / f"group-of-{world}-{rank}.log" for rank in range(world)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.training.loop_runs", str(orders)],
            cwd=ROOT,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=3000) for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [log.read_text() for log, code in zip(logs, codes, strict=True) if code]
    assert not failed, failed[0][-4000:]


def seen(root: Path, name: str, rank: int = 0) -> Seen:
    return Seen(**json.loads((root / name / f"rank-{rank}.json").read_text()))


def _main(orders: Path) -> None:
    import torch
    import torch.distributed as dist

    from ftray.train.distributed.context import join_group
    from tests.helpers.task_kinds import KINDS

    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{orders}.store", rank=rank, world_size=world
    )
    ranks = join_group()
    # ZeRO 3 collects garbage at each start. Freezing spares the collector all imported objects.
    gc.freeze()
    made = [Run(**order) for order in json.loads(orders.read_text())]
    if rank == 0:
        # Not in pytest's process: tests that run meanwhile draw from the same generators.
        for kind in sorted({run.kind for run in made if run.kind}):
            KINDS[kind].tree(orders.parent / kind)  # writes rows and base model, for all processes
    dist.barrier()
    for run in made:
        print(f"run {run.name}", flush=True)
        found = _train(run, orders.parent, ranks)
        folder = orders.parent / run.name
        (folder / f"rank-{rank}.json").write_text(json.dumps(asdict(found)))
        dist.barrier()


def _train(run: Run, root: Path, ranks: Any) -> Seen:
    from safetensors.torch import save_file

    from ftray.errors import FtrayError
    from ftray.spec.sections.training import CheckpointSpec
    from ftray.store.files.location import locate
    from ftray.train import loop
    from ftray.train.checkpoint.manager import CheckpointManager
    from ftray.train.context import build

    folder = root / run.name
    folder.mkdir(exist_ok=True)
    spec, data, base = _parts(run, root, ranks.world)
    model = base.model
    before = _values(model)
    resume = checkpoint(root, run.resume) if run.resume else None
    trunks = [keep_states(base, spec, data, folder / "states", ranks)] if run.trunk else []
    context, progress = build(spec, data, base, ranks, resume, trunks)
    watcher = Watcher(model, run.stop_after)
    kept = CheckpointSpec(every_steps=run.every, every_minutes=None, keep=1000)
    keeper = CheckpointManager(kept, locate(str(folder)), writes=ranks.rank == 0)
    found = watcher.found
    try:
        with sharing(not run.apart):
            loop.run(context, progress, keeper, watcher)
    except FtrayError as error:
        found.error = str(error)
    keeper.wait()
    after = _values(model)
    found.touched = any(after[name].ne(value).any() for name, value in watcher.latest.items())
    found.trainable = sorted(context.phased.plan.trainable)
    found.skipped = progress.skipped
    found.dropping = [n for n, m in model.named_modules() if m.training and "dropout" in n]
    found.moved = sorted(name for name in after if not _is_unchanged(name, after[name], before))
    raw = b"".join(after[name].float().numpy().tobytes() for name in sorted(after))
    found.digest = hashlib.sha256(raw).hexdigest()
    if ranks.rank == 0:
        save_file(after, folder / "final.safetensors")
    context.phased.close()
    return found


@contextmanager
def sharing(wanted: bool) -> Iterator[None]:
    """Engines that are built here share memory between workers only if `wanted`."""
    from ftray.train.engine import deepspeed

    with patch.object(deepspeed, "open_shared", deepspeed.open_shared if wanted else _no_memory):
        yield


def _no_memory(*_: Any) -> None: ...


def _parts(run: Run, root: Path, world: int) -> tuple[Any, Any, Any]:
    """The spec of a run, its rows and its base model."""
    from ftray.models.structure.quantized import quantize
    from ftray.train.base import Base

    if run.kind:
        from ftray.store.files.location import locate
        from tests.helpers.task_kinds import KINDS
        from tests.helpers.task_kinds.kind import prepared

        train = {**run.train, "trunk_precision": run.trunk or "bf16"}
        spec, data, base = prepared(KINDS[run.kind], root / run.kind, train, world)
        return spec, replace(data, location=locate(str(root / run.name))), base
    data = Data(run.rows, closed=run.model in ("bart", "t5"))
    spec, model = make_spec(run, world), make_model(run)
    if spec.train.weights == "nf4":
        quantize(model)
    return spec, data, Base(model, task_setup())


def keep_states(base: Any, spec: Any, data: Any, folder: Path, ranks: Any) -> Any:
    """A trunk cache of all rows, whose hidden states are computed row by row."""
    import torch
    import torch.distributed as dist

    from ftray.models.structure.blocks import count_blocks, plan_freeze
    from ftray.models.structure.cut import capture, find_cut, frozen_blocks
    from ftray.store.cache.trunk_states import write_shard
    from ftray.store.files.location import locate
    from ftray.tasks import get_task
    from ftray.tasks.features import input_digest
    from ftray.train.engine.phases import plan_phases
    from ftray.train.trunk_cache.cache import DTYPES, TrunkCache

    train, task, own = data.load("train"), get_task(spec.task), base.setup
    features = task.features(own)
    model = base.model.eval()
    some = task.collate(own, train.examples(range(4))).inputs
    phases = plan_phases(spec.train, count_blocks(model))
    plans = [plan_freeze(model, phase.selection, some) for phase in phases]
    blocks = min(frozen_blocks(model, plan) for plan in plans)
    cut, precision, kept = find_cut(model, blocks, some), spec.train.trunk_precision, {}
    for split in (train, data.load("validation")):
        for example in split.examples(range(len(split))):
            (states,) = capture(model, [cut], task.collate(own, [example]).inputs)
            row = cut.kept(states[0]).to(DTYPES[precision]).contiguous()
            kept[input_digest(example, features)] = row.view(torch.uint8).numpy().tobytes()
    if ranks.rank == 0:
        folder.mkdir(exist_ok=True)
        write_shard(locate(str(folder)), list(kept), list(kept.values()))
    dist.barrier()
    ragged = any(f.role == "input" and f.shape is None for f in features.values())
    shape = tuple(cut.kept(states[0]).shape)[1 if ragged else 0 :]
    return TrunkCache(locate(str(folder)), cut, precision, shape, ragged, False, {})


def _is_unchanged(name: str, value: Any, before: dict[str, Any]) -> bool:
    """Whether the base model has this parameter, under its name without LoRA, with this value."""
    old = before.get(name.replace(".base_layer.", "."))
    return old is not None and bool(value.eq(old).all())


class Watcher:
    """Records what the training loop reports."""

    def __init__(self, model: Any, stop_after: int) -> None:
        self.model = model
        self.found = Seen()
        self.latest: dict[str, Any] = {}
        self._stop_after = stop_after

    def phase(self, progress: Any) -> None:
        self.found.phases.append(progress.step)

    def step(self, event: dict[str, Any]) -> None:
        self.found.losses.append(event["loss"])
        self.found.rates.append(event["learning_rate"])
        self.found.timed.append({**event["phases"], "step": event["seconds"]})
        self.latest.update(_values(self.model))

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.found.metrics.append(metrics)

    def alive(self) -> None: ...

    def warn(self, line: str) -> None:
        self.found.warnings.append(line)

    def stopping(self) -> bool:
        last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        return last and 0 < self._stop_after == len(self.found.losses) + 1


def _values(model: Any) -> dict[str, Any]:
    """Whole copies of all parameters and of the persistent buffers.

    Gathers the parameters that ZeRO 3 shards.
    """
    import deepspeed

    parameters = dict(model.named_parameters())
    saved = model.state_dict().keys()
    buffers = {name: b.detach().clone() for name, b in model.named_buffers() if name in saved}
    parted = any(hasattr(parameter, "ds_id") for parameter in parameters.values())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=parted):
        whole = {name: p.detach().clone().contiguous() for name, p in parameters.items()}
    return {**whole, **buffers}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
