"""Measures the cost of thousands of labels: files, memory and time of training, export and serving.

    python -m tests.bench.serving.many_labels [--labels 1000 10000] [--out F.json]

Uses five rows per label and a BERT with two narrow blocks, so that the measured cost grows with the
number of labels alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.bench.common.measure import table
from tests.helpers.serving.served import served

_ROWS_OF_A_LABEL = 5
_LOOK_S = 0.2
_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="What thousands of labels cost.")
    parser.add_argument("--labels", nargs="+", type=int, default=[1000, 10000])
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    found = {}
    for count in options.labels:
        with tempfile.TemporaryDirectory(prefix="labels-") as name:
            found[count] = measure(Path(name), count)
        print(json.dumps({count: found[count]}), file=sys.stderr, flush=True)
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{figures[name]:,.1f}" for figures in found.values())] for name in names]
    print(table(["", *(f"{count:,} labels" for count in found)], rows))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, labels: int) -> dict[str, float]:
    write_base(folder / "base")
    write_rows(folder / "rows.jsonl", labels)
    spec = {
        "name": "labels",
        "storage": str(folder / "storage"),
        "model": {"name_or_path": str(folder / "base")},
        "data": {"train": str(folder / "rows.jsonl"), "max_length": 16},
        "train": {"epochs": 1, "batch_size": 256, "learning_rate": 1e-3, "unfreeze": "all"},
        "scale": {"workers": 1},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    seconds, train_memory, result = trained(folder)
    model = Path(result["model_dir"])
    figures = {
        "train and export, s": seconds,
        "train, largest process, MiB": train_memory / _MIB,
        **{
            f"{file.name}, KiB": file.stat().st_size / 1024
            for file in sorted(model.iterdir())
            if file.is_file() and not file.name.startswith(("tokenizer", "vocab", "special"))
        },
    }
    with served(model) as (url, pid):
        about = urllib.request.urlopen(f"{url}/v1/model").read()
        asked = urllib.request.Request(
            f"{url}/v1/predict",
            json.dumps({"inputs": ["thing number 7"]}).encode(),
            {"Content-Type": "application/json"},
        )
        answer = json.loads(urllib.request.urlopen(asked).read())
        assert answer, "the service answers"
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        figures["serve, largest process, MiB"] = largest(family) / _MIB
    return {**figures, "/v1/model, KiB": len(about) / 1024}


def write_base(folder: Path) -> None:
    """Writes a BERT with two narrow blocks, random weights and MiniLM's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    from ftray.models.pretrained import find_pretrained
    from ftray.spec.load import parse
    from tests.helpers.models.tiny_model import BASE

    tree = {"name": "base", "model": {"name_or_path": BASE}, "data": {"train": "rows.jsonl"}}
    spec = parse(tree)
    tokenizer = find_pretrained(spec.model).processor(spec.info)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(file: Path, labels: int) -> None:
    with file.open("w") as stream:
        for row in range(labels * _ROWS_OF_A_LABEL):
            label, copy = divmod(row, _ROWS_OF_A_LABEL)
            text = f"{['a', 'big', 'small', 'new', 'old'][copy]} thing number {label}"
            stream.write(json.dumps({"text": text, "label": f"label-{label:05d}"}) + "\n")


def trained(folder: Path) -> tuple[float, int, dict[str, Any]]:
    """Runs `ftray train`.

    Returns its seconds, the most bytes that one of its processes held, and its result.
    """
    command = [sys.executable, "-m", "ftray", "train", "spec.yaml", "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    highest = [0]

    def watch() -> None:
        while process.poll() is None:
            try:
                family = psutil.Process(process.pid)
                highest[0] = max(highest[0], largest([family, *family.children(recursive=True)]))
            except psutil.NoSuchProcess:
                return
            time.sleep(_LOOK_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, said = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(said[-4000:])
    return time.perf_counter() - started, highest[0], json.loads(out)


def largest(processes: list[psutil.Process]) -> int:
    """The resident bytes of the largest process."""
    held = [0]
    for process in processes:
        try:
            held.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(held)


if __name__ == "__main__":
    main()
