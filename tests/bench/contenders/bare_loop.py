"""A plain PyTorch training loop, against which ftray's step loop is measured.

    python tests/bench/contenders/bare_loop.py SPEC

Does the same work on the same batches, in one process. The data must be encoded already. The last
line of stdout is one JSON object: the rows and seconds of each epoch's optimizer steps.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.data.encoding.encoded import EncodedSplit
from ftray.models.structure.blocks import count_blocks, plan_freeze
from ftray.spec.load import load, override
from ftray.spec.schema import Spec
from ftray.tasks import get_task
from ftray.tasks.classification import LABEL
from ftray.train.base import Base, load_base
from ftray.train.check import check_inputs
from ftray.train.distributed.context import alone
from ftray.train.distributed.process import settle
from ftray.train.engine.deepspeed import wants_autocast
from ftray.train.engine.phases import plan_phases
from ftray.train.engine.schedule import learning_rate
from ftray.train.run import prepare


def main() -> None:
    checked = check_inputs(load(sys.argv[1]))
    spec, data, task = checked.spec, prepare(checked).data, get_task(checked.spec.task)
    settle(override(spec, {"scale.cpus_per_worker": torch.get_num_threads()}))
    base = load_base(spec, data.schema)
    rows = data.load("train")
    sample = task.collate(base.setup, rows.examples([0])).inputs
    (phase,) = plan_phases(spec.train, count_blocks(base.model))
    plan = plan_freeze(base.model, phase.selection, sample)
    plan.apply(base.model)
    plan.set_train_mode(base.model)
    batches = BatchPlan(rows.lengths, spec.train.batch_size, spec.train.batch_size, spec.seed)
    epochs = train(base, spec, rows, batches)
    print(json.dumps({"precision": "bf16", "metrics": {}, "epochs": epochs}))


def train(base: Base, spec: Spec, rows: EncodedSplit, batches: BatchPlan) -> list[dict[str, float]]:
    """A hand-written training loop with ftray's collation and schedule, clipping and AdamW."""
    model, collate = base.model, get_task(spec.task).collate
    autocast = wants_autocast(spec.train, alone())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.train.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        fused=True,
    )
    steps = spec.train.epochs * batches.steps_per_epoch
    step, epochs = 0, []
    for epoch in range(spec.train.epochs):
        started, count = time.perf_counter(), 0
        for batch in batches.batches(epoch):
            taken = collate(base.setup, rows.examples(batch))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                logits = model(**taken.inputs).logits
            loss = nn.functional.cross_entropy(logits.float(), taken.targets[LABEL])
            loss.backward()
            nn.utils.clip_grad_norm_(trained, spec.train.clip or float("inf"))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(spec.train, step, steps)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            step += 1
            count += len(batch)
        epochs.append({"rows": count, "seconds": time.perf_counter() - started})
    return epochs


if __name__ == "__main__":
    main()
