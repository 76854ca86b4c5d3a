"""A common hand-written endpoint: FastAPI around a Hugging Face pipeline that generates.

python tests/bench/contenders/generate_fastapi.py MODEL PORT
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

TOKENS = 32


class Asked(BaseModel):
    prompt: str


def main() -> None:
    folder, port = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    write = pipeline("text-generation", model=folder, tokenizer=folder)
    app = FastAPI()
    # Without this lock the threads slow each other down so much that hardly any request is
    # answered.
    one_at_a_time = threading.Lock()

    @app.post("/generate")
    def generate(asked: Asked) -> Any:
        options = {"max_new_tokens": TOKENS, "do_sample": False, "return_full_text": False}
        with one_at_a_time, torch.inference_mode():
            return write(asked.prompt, **options)[0]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
