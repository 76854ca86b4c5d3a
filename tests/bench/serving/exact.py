"""Checks that a served model answers as the trained one did, on every row of the test split.

    python -m tests.bench.serving.exact [--rows 600] [--held-out 1000]

Trains MiniLM's top 2 blocks on `--rows` of the demo's reviews and serves the model in fp32 with two
replicas. 16 callers request all rows of the test split, in a random order and in requests of
several sizes. The bench compares every probability with the one that transformers alone computes
for the row by itself, and accuracy and loss with the values that the training wrote into
ftray.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftray.models.artifact.manifest import read_info
from ftray.store.files.location import locate
from tests.bench.common.contest import stage
from tests.bench.common.measure import table
from tests.bench.serving.serving import trained
from tests.helpers.serving.served import served

SIZES = (1, 3, 32, 1000)
CALLERS = 16
Shares = dict[str, float]
"""Label -> probability."""


def main() -> None:
    options = _options()
    os.environ.pop("RAY_ADDRESS", None)
    with stage(options.rows, 1, held_out=options.held_out) as here:
        folder = trained(here, {"train.unfreeze": 2, "serve.precision": "fp32"})
        lines = Path(str(here.spec.data.test)).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [row["text"] for row in rows]
        expected = _alone(folder, texts)
        metrics = read_info(locate(folder)).metrics["test"]
        told = []
        with served(folder, "--replicas=2") as (url, _), httpx.Client(base_url=url) as client:
            for size in SIZES:
                found = _asked(texts, size, lambda part: _predict(client, part))
                told.append([f"{size} at a time", *_compared(found, expected, rows, metrics)])
            found = _asked(texts, len(texts), lambda part: _stream(client, part))
            told.append(["a stream", *_compared(found, expected, rows, metrics)])
    print(f"{len(texts):,} rows; the training's accuracy {metrics['accuracy']:.4f}")
    print(table(["", "largest gap of a probability", "of the accuracy", "of the loss"], told))


def _alone(folder: str, texts: Sequence[str]) -> list[Shares]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    most, found = read_info(locate(folder)).max_length, []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        with torch.inference_mode():
            shares = torch.softmax(model(**inputs).logits[0], -1).tolist()
        found.append({model.config.id2label[i]: share for i, share in enumerate(shares)})
    return found


def _asked(
    texts: Sequence[str], size: int, ask: Callable[[Sequence[str]], list[Shares]]
) -> list[Shares]:
    order = random.Random(size).sample(range(len(texts)), len(texts))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = pool.map(lambda part: ask([texts[place] for place in part]), parts)
        found = {
            p: a
            for part, rows in zip(parts, answers, strict=True)
            for p, a in zip(part, rows, strict=True)
        }
    return [found[place] for place in range(len(texts))]


def _predict(client: httpx.Client, texts: Sequence[str]) -> list[Shares]:
    body = {"inputs": texts, "top_k": 1000}
    answer = client.post("/v1/predict", json=body, timeout=120).raise_for_status()
    return [_shares(row) for row in answer.json()["outputs"]]


def _stream(client: httpx.Client, texts: Sequence[str]) -> list[Shares]:
    body = "".join(json.dumps(text) + "\n" for text in texts)
    answer = client.post("/v1/predict/stream?top_k=1000", content=body, timeout=120)
    lines = answer.raise_for_status().text.splitlines()
    return [_shares(json.loads(line)["output"]) for line in lines]


def _shares(row: Sequence[dict]) -> Shares:
    return {item["label"]: item["score"] for item in row}


def _compared(
    found: Sequence[Shares], expected: Sequence[Shares], rows: Sequence[dict], metrics: dict
) -> list[str]:
    gap = max(abs(a[label] - b[label]) for a, b in zip(found, expected, strict=True) for label in b)
    labels = [row["label"] for row in rows]
    right = [max(a, key=a.__getitem__) == label for a, label in zip(found, labels, strict=True)]
    losses = [-math.log(a[label]) for a, label in zip(found, labels, strict=True)]
    accuracy, loss = sum(right) / len(right), sum(losses) / len(losses)
    return [f"{gap:.1e}", f"{accuracy - metrics['accuracy']:g}", f"{loss - metrics['loss']:.1e}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Served answers against the trained model's.")
    parser.add_argument("--rows", type=int, default=600, help="to train on")
    parser.add_argument("--held-out", type=int, default=1000, help="rows of the test split")
    return parser.parse_args()


if __name__ == "__main__":
    main()
