"""Measures rows per second of a model's forward pass alone: an upper bound for serving.

    python tests/bench/contenders/serve_bare.py MODEL TEXTS PRECISION

Runs on one thread. TEXTS: one JSON string per line. Prints one JSON object with three rates: rows
one by one, in batches of 32 in file order, and in batches of 32 of similar length.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH, SECONDS, MAX_LENGTH = 32, 5.0, 64


def main() -> None:
    folder, texts = sys.argv[1], list(map(json.loads, Path(sys.argv[2]).read_text().splitlines()))
    rounds = sys.argv[3] == "bf16"
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    # The weights are rounded once here: autocast alone would round them in every pass.
    for module in model.modules():
        if rounds and isinstance(module, torch.nn.Linear):
            module.to(torch.bfloat16)

    def rate(texts: Sequence[str], size: int) -> float:
        batches = [
            tokenizer(
                list(texts[at : at + size]),
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            )
            for at in range(0, len(texts), size)
        ]
        rows, started, turn = 0, time.perf_counter(), 0
        while turn == 0 or time.perf_counter() - started < SECONDS:
            for batch in batches:
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, rounds):
                    model(**batch)
                rows += len(batch["input_ids"])
            turn += 1
        return rows / (time.perf_counter() - started)

    rate(texts[:BATCH], BATCH)
    by_length = sorted(texts, key=lambda text: len(tokenizer(text)["input_ids"]))
    rates = {
        "single": rate(texts, 1),
        "batched": rate(texts, BATCH),
        "sorted": rate(by_length, BATCH),
    }
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
