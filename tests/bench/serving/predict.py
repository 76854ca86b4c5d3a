"""Compares `ftray predict` with the bare batched forward pass, and kills it half-way.

    python -m tests.bench.serving.predict [--rows 100000] [--bare-rows 8000]

The rows are the demo's movie reviews, repeated, each with a number in front. The bare side runs as
many processes as ftray has actors, each with one thread, on batches in file order and on batches of
similar length. The bench measures the whole command, from file to file. Because the command takes
some seconds to start, the bench also gives the rate beyond a run of 1,000 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.common.contest import SCRIPTS, stage
from tests.bench.serving.serving import trained
from tests.helpers.external.processes import kill_with_children

FEW = 1000


def main() -> None:
    options = _options()
    os.environ.pop("RAY_ADDRESS", None)
    with stage(600, 1) as here, tempfile.TemporaryDirectory(prefix="predict-") as name:
        folder, model = Path(name), trained(here)
        lines = Path(str(here.spec.data.test)).read_text(encoding="utf-8").splitlines()
        reviews = [json.loads(line)["text"] for line in lines]
        few, many = (_rows(folder, reviews, count) for count in (FEW, options.rows))
        bare, alike = _bare(folder, model, many, options.bare_rows)
        start = _timed(_command(model, few, folder / "few.jsonl"))
        whole = _timed(_command(model, many, folder / "whole.jsonl"))
        _killed(_command(model, many, folder / "killed.jsonl"), after=whole / 2)
        again = _timed(_command(model, many, folder / "killed.jsonl"))
        whole_rows, killed_rows = (
            (folder / f"{name}.jsonl").read_text().splitlines() for name in ("whole", "killed")
        )
        wrong = sum(a != b for a, b in zip(whole_rows, killed_rows, strict=True))
        assert len(whole_rows) == options.rows
    rate = (options.rows - FEW) / (whole - start)
    print(f"bare forward: {bare:.0f} rows/s in batches as they come, {alike:.0f} of like length")
    print(
        f"ftray predict: {options.rows:,} rows in {whole:.0f} s, {options.rows / whole:.0f} rows/s"
    )
    print(f"beyond the start: {rate:.0f} rows/s, {rate / bare:.2f} and {rate / alike:.2f} of these")
    print(f"killed half-way and gone on with: {again:.0f} s, {wrong} rows differ")


def _rows(folder: Path, reviews: list[str], count: int) -> Path:
    file = folder / f"{count}.jsonl"
    with file.open("w") as out:
        for number in range(count):
            text = f"{number}: {reviews[number % len(reviews)]}"
            out.write(json.dumps({"id": number, "text": text}) + "\n")
    return file


def _bare(folder: Path, model: str, rows: Path, count: int) -> tuple[float, float]:
    """Rows per second of all bare processes together, on `count` rows from all over the file.

    Returns the rates for batches in file order and for batches of similar length.
    """
    texts, lines = folder / "texts", rows.read_text().splitlines()
    chosen = (json.loads(lines[n * len(lines) // count])["text"] for n in range(count))
    texts.write_text("".join(json.dumps(text) + "\n" for text in chosen))
    command = [sys.executable, str(SCRIPTS / "serve_bare.py"), model, str(texts), "fp32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(os.cpu_count() or 1)
    ]
    outputs = [process.communicate()[0].decode() for process in started]
    rates = [json.loads(output.splitlines()[-1]) for output in outputs]
    return sum(r["batched"] for r in rates), sum(r["sorted"] for r in rates)


def _command(model: str, data: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "ftray", "predict", model, "--data", str(data), "--out", str(out)]


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _killed(command: list[str], after: float) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(after)
    assert process.poll() is None, "it was quicker than the kill"
    kill_with_children(process)
    assert process.wait() == -signal.SIGKILL


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Batch prediction.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--bare-rows", type=int, default=8000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
