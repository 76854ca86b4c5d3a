"""Measures the cost of ftray's step loop over a bare PyTorch loop, and the cost of its checkpoints.

    python -m tests.bench.training.overhead [--rows 2500] [--repeats 3] [--unfreeze 2 all]
        [--every 50]
        [--threads 1] [--out F.json]

Each contender runs in one process; contenders take turns on the same batches: collation, forward,
backward, clipping, AdamW. The figures are those of the second of three epochs, so that the measured
epoch also pays for a checkpoint that the first epoch left to be written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench.common.contest import ALONE, BARE, Contender, Result, stage
from tests.bench.common.measure import Sample, table

EPOCHS = 3
HELD_OUT = 64


def main() -> None:
    options = _options()
    sometimes = {"train.checkpoint.every_steps": options.every}
    contenders: tuple[tuple[str, Contender, dict[str, int]], ...] = (
        ("bare loop", BARE, {}),
        ("ftray", ALONE, {}),
        (f"ftray, a checkpoint every {options.every} steps", ALONE, sometimes),
    )
    results: list[Result] = []
    with stage(options.rows, options.threads, HELD_OUT) as here:
        for turn in range(options.repeats):
            for unfreeze in options.unfreeze:
                for name, contender, extra in contenders if turn % 2 == 0 else contenders[::-1]:
                    changes = {"train.unfreeze": unfreeze, "train.epochs": EPOCHS, **extra}
                    result = {**here.run(contender, changes), "contender": name}
                    results.append(result)
                    print(f"{unfreeze} blocks, {name}: {rate(result):.1f}", file=sys.stderr)
    print(report(results, [name for name, _, _ in contenders]))
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2) + "\n")


def rate(result: Result) -> float:
    """Samples/s of the second of three epochs."""
    epoch = result["epochs"][1]
    return epoch["rows"] / epoch["seconds"]


def report(results: list[Result], names: list[str]) -> str:
    rows = []
    for unfreeze in dict.fromkeys(result["train.unfreeze"] for result in results):
        samples = {
            name: Sample(
                tuple(
                    rate(r)
                    for r in results
                    if r["train.unfreeze"] == unfreeze and r["contender"] == name
                )
            )
            for name in names
        }
        bare, ours, _ = samples.values()
        for name, sample in samples.items():
            ratios = [sample.over(base).median_and_range(3) for base in (bare, ours)]
            rows.append([str(unfreeze), name, sample.median_and_range(1), *ratios])
    return table(["blocks trained", "", "samples/s", "x bare loop", "x ftray"], rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of ftray's step loop.")
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--unfreeze", nargs="+", type=lambda v: v if v == "all" else int(v), default=[2, "all"]
    )
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
