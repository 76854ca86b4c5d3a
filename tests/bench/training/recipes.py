"""Compares freezing recipes with few examples: 50 per class of the movie reviews.

    python -m tests.bench.training.recipes [--examples 50] [--seeds 5] [--first 1] [--epochs 10]
        [--out F.json]

Each seed draws its own training rows and as many validation rows, the head and the order. Each
method takes the learning rate, out of the same three, and the epoch with the best validation
metric. Test metrics on the demo's 1,000 held-out reviews come from that choice alone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from ftray.cluster.connection import session
from ftray.data.encoding.encode import EncodedDataset
from ftray.models.pretrained import find_pretrained
from ftray.spec.load import load, override
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.train import loop
from ftray.train.base import load_base
from ftray.train.check import check_inputs
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.checkpoint.stored import best
from ftray.train.context import build
from ftray.train.distributed.context import alone
from ftray.train.progress import Progress
from ftray.train.run import prepare
from tests.bench.common.contest import ROOT
from tests.bench.common.measure import Sample, table

METHODS: dict[str, dict[str, Any]] = {
    "head only": {"train.unfreeze": "head"},
    "top 2 blocks": {"train.unfreeze": 2},
    "all (plain fine-tuning)": {"train.unfreeze": "all"},
    "top-quarter": {"train.unfreeze": "top-quarter"},
    "lp-ft": {"train.unfreeze": "lp-ft"},
    "gradual": {"train.unfreeze": "gradual"},
    "all, layer decay 0.8": {"train.unfreeze": "all", "train.layer_decay": 0.8},
}
RATES = (1e-4, 3e-4, 1e-3)
PLAIN = "all (plain fine-tuning)"
# Student's t for the 95 % interval of a mean, by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def main() -> None:
    options = _options()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="recipes-") as name:
        for seed in range(options.first, options.first + options.seeds):
            spec = _spec(Path(name), seed, options)
            with session():
                data = prepare(check_inputs(spec)).data
            for method, changes in METHODS.items():
                tried = [_train(spec, data, changes, rate) for rate in RATES]
                chosen = max(tried, key=_validation)
                chosen["test"] = _test(data, chosen)
                for one in tried:
                    one["kept"].delete()
                results.append({"seed": seed, "method": method, **_plain(chosen)})
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(report(results))
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2) + "\n")


def _spec(folder: Path, seed: int, options: argparse.Namespace) -> Spec:
    """The demo's spec on rows that `seed` draws from its training split."""
    subprocess.run([sys.executable, ROOT / "jobs" / "demo_data.py"], check=True, stdout=sys.stderr)
    shipped = load(ROOT / "jobs" / "movie-sentiment.yaml")
    by_label: dict[str, list[str]] = defaultdict(list)
    for line in (ROOT / shipped.data.train).read_text(encoding="utf-8").splitlines():
        by_label[json.loads(line)["label"]].append(line)
    files = {"train": [], "validation": []}  # type: dict[str, list[str]]
    for lines in by_label.values():
        drawn = random.Random(seed).sample(lines, 2 * options.examples)
        files["train"] += drawn[: options.examples]
        files["validation"] += drawn[options.examples :]
    changes: dict[str, Any] = {"data.test": str(ROOT / str(shipped.data.test))}
    for split, lines in files.items():
        path = folder / f"{seed}-{split}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        changes[f"data.{split}"] = str(path)
    return override(
        shipped,
        {
            **changes,
            "seed": seed,
            "storage": str(folder / "storage"),
            "model.name_or_path": str(find_pretrained(shipped.model).folder),
            "train.epochs": options.epochs,
            "train.batch_size": 16,
            "scale.workers": 1,
        },
    )


def _train(
    spec: Spec, data: EncodedDataset, changes: dict[str, Any], rate: float
) -> dict[str, Any]:
    spec = override(spec, {**changes, "train.learning_rate": rate})
    kept = locate(tempfile.mkdtemp(dir=Path(str(spec.storage))))
    base = load_base(spec, data.schema)
    setup, progress = build(spec, data, base, alone(), None)
    try:
        loop.run(
            setup, progress, CheckpointManager(spec.train.checkpoint, kept, writes=True), _Silent()
        )
    finally:
        setup.phased.close()
    return {"spec": spec, "kept": kept, "rate": rate, "validation": progress.best}


def _test(data: EncodedDataset, chosen: dict[str, Any]) -> dict[str, float]:
    """Test metrics of a run's best epoch."""
    spec = chosen["spec"]
    base = load_base(spec, data.schema)
    folder = Path(best(chosen["kept"]).path)
    setup, _ = build(spec, data, base, alone(), folder)
    metrics = loop.evaluate(setup, data.load("test"), _Silent())
    setup.phased.close()
    return {name: metrics[name] for name in ("accuracy", "f1_macro")}


def _validation(result: dict[str, Any]) -> float:
    return result["validation"]


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("rate", "validation", "test")}


class _Silent:
    def phase(self, progress: Progress) -> None: ...

    def step(self, event: dict[str, Any]) -> None: ...

    def epoch(self, metrics: dict[str, Any]) -> None: ...

    def alive(self) -> None: ...

    def warn(self, line: str) -> None: ...

    def stopping(self) -> bool:
        return False


def report(results: list[dict[str, Any]]) -> str:
    rows = []
    plain = _accuracies(results, PLAIN)
    for method in METHODS:
        found = _accuracies(results, method)
        gain = Sample(tuple(a - b for a, b in zip(found.values, plain.values, strict=True)))
        f1 = Sample(tuple(r["test"]["f1_macro"] for r in results if r["method"] == method))
        rates = sorted(r["rate"] for r in results if r["method"] == method)
        paired = "" if method == PLAIN else f"{gain.mean:+.4f} ± {_half(gain):.4f}"
        figures = [f"{found.mean:.4f} ± {_half(found):.4f}", f"{f1.mean:.4f} ± {_half(f1):.4f}"]
        rows.append([method, *figures, paired, ", ".join(f"{rate:g}" for rate in rates)])
    header = ["method", "test accuracy", "macro-F1", "over plain, paired", "rates chosen"]
    return table(header, rows) + "\n\nMean ± half the 95 % interval of the mean over seeds."


def _accuracies(results: list[dict[str, Any]], method: str) -> Sample:
    return Sample(tuple(r["test"]["accuracy"] for r in results if r["method"] == method))


def _half(sample: Sample) -> float:
    count = len(sample.values)
    return T95.get(count - 1, 1.96) * sample.deviation / math.sqrt(count)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ways of freezing, with few examples.")
    parser.add_argument("--examples", type=int, default=50, help="of each label")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="The first of the seeds.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", help="JSON file for the figures of every run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
