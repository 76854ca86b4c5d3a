"""Writes ONNX's graph of a model folder's model."""

from __future__ import annotations

from pathlib import Path

from ftray.errors import ModelError
from ftray.models.inference.predictor import Predictor
from ftray.models.load import load_model
from ftray.store.files.location import locate

ONNX = "model.onnx"


def write_onnx(folder: Path, file: Path) -> None:
    """Write the graph of the model in `folder`: fp32, with the model's inputs and the task's
    outputs by name, for any number of rows and tokens. Raises ModelError where ONNX has no graph
    for it."""
    loaded = load_model(locate(str(folder)))
    if not isinstance(loaded, Predictor) or loaded.info.kind.writes:
        problem = f"a model for {loaded.info.task} takes many forward passes, and ONNX holds one"
        raise ModelError.of("--onnx", loaded.info.name, problem, "leave --onnx out")
    loaded.write_onnx(file)
