"""Compares training with and without the trunk cache: loss curves and the final metric.

    python -m tests.bench.training.equivalence [--steps 120] [--seeds 5] [--only curves|metric]

Curves: trains a tiny random network of each family with half of its blocks frozen, by AdamW on the
same rows with dropout, once whole and once from cached hidden states in fp32. The table shows the
largest difference between the losses of any step.

Metric: runs `ftray train` on the movie reviews with the top two blocks trained, from bf16 hidden
states and without a cache, over several seeds.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

import torch

from ftray.models.structure.blocks import plan_freeze
from ftray.models.structure.cut import (
    capture,
    cut_off,
    find_cut,
    frozen_blocks,
    gathered,
    shortened,
)
from tests.bench.common.contest import WORKERS, stage
from tests.bench.common.measure import Sample, table
from tests.helpers.models.tiny_networks import (
    SEEING,
    STACKED,
    tiny_batch,
    tiny_images,
    tiny_network,
)

ROWS = 8


def main() -> None:
    options = _options()
    if options.only != "metric":
        torch.set_num_threads(1)
        print(table(["family", "steps", "largest gap"], curves(options.steps)), flush=True)
    if options.only != "curves":
        print("\n" + metric(options), flush=True)


def curves(steps: int) -> list[list[str]]:
    found = []
    for family in [*STACKED, *SEEING]:
        whole = losses(family, steps, cached=False)
        kept = losses(family, steps, cached=True)
        gap = max(abs(a - b) for a, b in zip(whole, kept, strict=True))
        assert whole[-1] < whole[0], f"{family} learns nothing"
        found.append([family, str(steps), f"{gap:.1e}" if gap else "0"])
    return found


def losses(family: str, steps: int, cached: bool) -> list[float]:
    """The loss of each step on the same few rows, whose labels are random."""
    whole = tiny_network(family)
    batch = tiny_images(ROWS) if family in SEEING else tiny_batch(ROWS, 9)
    targets = torch.randint(0, 3, (ROWS,), generator=torch.Generator().manual_seed(1))
    plan = plan_freeze(whole, 1, batch)
    model, inputs = whole, dict(batch)
    replay = states = None
    if cached:
        cut = find_cut(whole, frozen_blocks(whole, plan), batch)
        (captured,) = capture(whole, [cut], batch)
        states = gathered(cut, captured, batch.get("attention_mask"))
        inputs = shortened(cut, batch)
        replay = cut_off(copy.deepcopy(whole), cut)
        model = replay.model
    plan.apply(model)
    model.train()
    plan.set_train_mode(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for step in range(steps):
        torch.manual_seed(step)
        if replay is not None and states is not None:
            replay.feed(states)
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def metric(options: argparse.Namespace) -> str:
    found: dict[str, list[float]] = {"on": [], "off": []}
    with stage(options.rows, 2) as here:
        for seed in range(1, options.seeds + 1):
            for cache, values in found.items():
                changes: dict[str, Any] = {
                    "seed": seed,
                    "train.unfreeze": 2,
                    "train.trunk_cache": cache,
                    "train.baselines": False,
                }
                result = here.run(WORKERS, changes)
                values.append(result["metrics"]["test"]["accuracy"])
                print(f"seed {seed}, cache {cache}: {values[-1]:.4f}", file=sys.stderr, flush=True)
    rows = [
        [f"trunk cache {cache}", Sample(tuple(values)).mean_and_deviation()]
        for cache, values in found.items()
    ]
    return table(["", f"test accuracy over {options.seeds} seeds"], rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="With and without the trunk cache.")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2500, help="of the movie reviews")
    parser.add_argument("--only", choices=("curves", "metric"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
