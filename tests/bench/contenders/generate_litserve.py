"""A LitServe endpoint that generates in batches: a later request waits for the batch before it.

python tests/bench/contenders/generate_litserve.py MODEL PORT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import litserve
import torch
from generate_bare import batched
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH, WAIT_SECONDS = 32, 0.005


class Generate(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_SECONDS)
        self.folder = folder

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(self.folder).eval()

    # LitServe reads the annotations: it passes the JSON body to a parameter without one.
    def decode_request(self, request) -> str:  # type: ignore[no-untyped-def]
        return str(request["prompt"])

    def batch(self, inputs: Sequence[str]) -> list[str]:
        return list(inputs)

    def predict(self, prompts: list[str]) -> list[str]:
        return batched(self.model, self.tokenizer, prompts)

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        return {"text": output}


def main() -> None:
    server = litserve.LitServer(Generate(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )


if __name__ == "__main__":
    main()
