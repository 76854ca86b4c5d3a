"""A common hand-written endpoint: FastAPI around a Hugging Face pipeline.

python tests/bench/contenders/serve_fastapi.py MODEL PORT PRECISION
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

MAX_LENGTH = 64


class Review(BaseModel):
    text: str


def main() -> None:
    folder, port = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    classify = pipeline("text-classification", model=folder, tokenizer=folder)
    app = FastAPI()

    @app.post("/predict")
    def predict(review: Review) -> Any:
        with torch.autocast("cpu", torch.bfloat16, sys.argv[3] == "bf16"):
            return classify(review.text, truncation=True, max_length=MAX_LENGTH)[0]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
