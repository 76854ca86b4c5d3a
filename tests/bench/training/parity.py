"""Compares ftray with the plain Hugging Face Trainer on the same rows and settings.

    python -m tests.bench.training.parity [--seeds 3] [--rows 2500] [--epochs 3] [--repeats 3]
        [--unfreeze all 2] [--precision bf16] [--threads 2] [--only speed|accuracy] [--out F.json]

All runs happen on this machine, in turns, and in the opposite order every other turn, so that a
drift of the machine's speed affects all contenders alike. README.md in this folder explains the
tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.common.contest import ALONE, AS_WRITTEN, TUNED, WORKERS, Contender, Result, stage
from tests.bench.common.measure import Sample, table

METRICS = {"accuracy": "accuracy", "f1_macro": "macro-F1"}
CONTENDERS = (AS_WRITTEN, TUNED, ALONE, WORKERS)
# Speed is measured over one whole epoch after a warm-up epoch. A whole epoch has each row once, so
# that no contender gains by its order of batches.
SPEED_EPOCHS = 2
SPEED_HELD_OUT = 64
FIRST_SEED = 1


def main() -> None:
    options = _options()
    # Runs use this machine alone and record nothing on a tracking server.
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    report: dict[str, Any] = {"options": vars(options), "machine": _machine()}
    parts = {"accuracy": accuracy, "speed": speed}
    for name in [options.only] if options.only else parts:
        report[name] = parts[name](options)
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=2) + "\n")


def accuracy(options: argparse.Namespace) -> list[Result]:
    """The best epoch's test metrics over seeds, for the script as written and for ftray."""
    results: list[Result] = []
    with stage(options.rows, options.threads) as here:
        for turn, seed in enumerate(range(FIRST_SEED, FIRST_SEED + options.seeds)):
            for unfreeze, contender in _turn(turn, options.unfreeze, (AS_WRITTEN, ALONE)):
                changes = {
                    "seed": seed,
                    "train.unfreeze": unfreeze,
                    "train.epochs": options.epochs,
                    "train.precision": options.precision,
                }
                results.append(here.run(contender, changes))
                _say(f"seed {seed}", results[-1])
    print(f"\n{accuracy_table(results)}\n", flush=True)
    return results


def speed(options: argparse.Namespace) -> list[Result]:
    """Samples/s of the optimizer steps, by contender."""
    results: list[Result] = []
    with stage(options.rows, options.threads, SPEED_HELD_OUT) as here:
        for turn in range(options.repeats):
            for unfreeze, contender in _turn(turn, options.unfreeze, CONTENDERS):
                changes = {
                    "train.unfreeze": unfreeze,
                    "train.epochs": SPEED_EPOCHS,
                    "train.precision": contender.precision,
                }
                results.append(here.run(contender, changes))
                _say(f"repeat {turn + 1}", results[-1])
    print(f"\n{speed_table(results)}\n", flush=True)
    return results


def accuracy_table(results: Sequence[Result]) -> str:
    header = ["blocks trained", "test", "HF Trainer", "ftray", "difference", "seeds' spread", ""]
    rows = []
    for unfreeze in _settings(results):
        for metric, shown in METRICS.items():
            theirs, ours = (
                Sample(
                    tuple(r["metrics"]["test"][metric] for r in _of(results, unfreeze, contender))
                )
                for contender in (AS_WRITTEN, ALONE)
            )
            gap, spread = ours.mean - theirs.mean, max(ours.deviation, theirs.deviation)
            figures = [theirs.mean_and_deviation(), ours.mean_and_deviation()]
            verdict = ("within" if abs(gap) < spread else "OUTSIDE") if spread else "one seed"
            rows.append([str(unfreeze), shown, *figures, f"{gap:+.4f}", f"{spread:.4f}", verdict])
    return table(header, rows)


def speed_table(results: Sequence[Result]) -> str:
    header = ["blocks trained", "", "samples/s", f"x {AS_WRITTEN.name}", f"x {TUNED.name}"]
    rows = []
    for unfreeze in _settings(results):
        samples = {
            contender: Sample(tuple(map(rate, _of(results, unfreeze, contender))))
            for contender in CONTENDERS
        }
        for contender, sample in samples.items():
            ratios = [
                sample.over(samples[base]).median_and_range(2) for base in (AS_WRITTEN, TUNED)
            ]
            rows.append([str(unfreeze), contender.name, sample.median_and_range(0), *ratios])
    return table(header, rows)


def rate(result: Result) -> float:
    """Samples/s over the epochs after the first, or over the only one."""
    later = result["epochs"][1:] or result["epochs"]
    return sum(epoch["rows"] for epoch in later) / sum(epoch["seconds"] for epoch in later)


def _turn(
    number: int, settings: Sequence[int | str], contenders: Sequence[Contender]
) -> Iterator[tuple[int | str, Contender]]:
    """Yields every contender once in every setting, in the opposite order in every other turn."""
    for setting in settings:
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            yield setting, contender


def _settings(results: Sequence[Result]) -> list[int | str]:
    return list(dict.fromkeys(result["train.unfreeze"] for result in results))


def _of(results: Sequence[Result], unfreeze: int | str, contender: Contender) -> list[Result]:
    return [
        result
        for result in results
        if result["train.unfreeze"] == unfreeze and result["contender"] == contender.name
    ]


def _say(turn: str, result: Result) -> None:
    test = result["metrics"]["test"]
    who = f"{result['contender']} ({result['precision']})"
    print(
        f"{turn}, {result['train.unfreeze']} blocks, {who}: {rate(result):.0f} samples/s, "
        f"test accuracy {test['accuracy']:.4f}, macro-F1 {test['f1_macro']:.4f}, "
        f"{result['wall_seconds']:.0f} s in all, load before {result['load_before']:.1f}",
        file=sys.stderr,
        flush=True,
    )


def _machine() -> dict[str, Any]:
    packages = ("ray", "torch", "transformers", "accelerate", "deepspeed")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="ftray against the Hugging Face Trainer.")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each for accuracy")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each for speed")
    parser.add_argument("--rows", type=int, default=2500, help="to train and validate on")
    parser.add_argument("--epochs", type=int, default=3, help="of the runs for accuracy")
    parser.add_argument("--unfreeze", nargs="+", type=_blocks, default=["all", 2])
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), default="bf16", help="of both, for accuracy"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each contender")
    parser.add_argument("--only", choices=("accuracy", "speed"))
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


def _blocks(value: str) -> int | str:
    return value if value == "all" else int(value)


if __name__ == "__main__":
    main()
