"""Measures answers per second of a model's `generate` alone, on one thread.

    python tests/bench/contenders/generate_bare.py MODEL PROMPTS

PROMPTS: one JSON string per line. Prints one JSON object with two rates: answers one by one, and
answers in batches of 32 prompts in file order, padded on the left.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH, TOKENS, SECONDS = 32, 32, 8.0


def batched(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """The completion of each prompt; `tokenizer` pads on the left."""
    inputs = tokenizer(
        list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False
    )
    with torch.inference_mode():
        whole = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    written: list[str] = tokenizer.batch_decode(
        whole[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return written


def main() -> None:
    folder, prompts = sys.argv[1], list(map(json.loads, Path(sys.argv[2]).read_text().splitlines()))
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def rate(size: int) -> float:
        answers, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            at = answers % (len(prompts) - size)
            answers += len(batched(model, tokenizer, prompts[at : at + size]))
        return answers / (time.perf_counter() - started)

    batched(model, tokenizer, prompts[:BATCH])
    print(json.dumps({"single": rate(1), "batched": rate(BATCH)}))


if __name__ == "__main__":
    main()
