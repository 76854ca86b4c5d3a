"""A LitServe endpoint with its dynamic batching.

python tests/bench/contenders/serve_litserve.py MODEL PORT PRECISION
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import litserve
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH, WAIT_SECONDS, MAX_LENGTH = 32, 0.005, 64


class Classify(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, folder: str, rounds: bool) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_SECONDS)
        self.folder, self.rounds = folder, rounds

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(self.folder).eval()
        for module in self.model.modules():
            if self.rounds and isinstance(module, torch.nn.Linear):
                module.to(torch.bfloat16)

    # LitServe reads the annotations: it passes the JSON body to a parameter without one.
    def decode_request(self, request) -> str:  # type: ignore[no-untyped-def]
        return str(request["text"])

    def batch(self, inputs: Sequence[str]) -> list[str]:
        return list(inputs)

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, self.rounds):
            probabilities = self.model(**batch).logits.float().softmax(-1)
        names, best = self.model.config.id2label, probabilities.max(-1)
        return [
            {"label": names[int(place)], "score": float(score)}
            for score, place in zip(best.values, best.indices, strict=True)
        ]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    server = litserve.LitServer(
        Classify(sys.argv[1], sys.argv[3] == "bf16"), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )


if __name__ == "__main__":
    main()
