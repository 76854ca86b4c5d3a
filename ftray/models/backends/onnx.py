"""Computes the forward pass of a classifier with ONNX Runtime, on the CPU."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.backends.graph import Inputs, Positional, Unfit, check, recording

_TOLERANCE = 1e-3
"""Largest difference of a logit in fp32: the graph recorded from one pass must hold for every
shape."""


_AXES = {2: {0: "rows", 1: "tokens"}, 4: {0: "rows"}}
"""Number of an input's axes -> the axes that differ between passes: texts have two, images four."""


class OnnxModel:
    """Stands in for the model that it was made from: takes the same keyword inputs and returns the
    named outputs alone. It uses as many threads as torch did when it was made."""

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Inputs],
        outputs: Sequence[str],
        int8: bool,
        keep: Path | None = None,
    ) -> None:
        """examples: inputs of several shapes; some rows of the first are padded. int8: store matrix
        weights as eight-bit integers, with a scale for each column, and quantize activations
        dynamically. keep: a file to write ONNX's graph to.

        Raises ModelError when the packages are missing, or ONNX cannot represent the model.
        """
        try:
            from onnxruntime.quantization import QuantType, quantize_dynamic
        except ImportError as error:
            problem, fix = f"needs a package more: {error}", "get it by pip install 'ftray[onnx]'"
            raise _refused(problem, fix) from None
        self._names, self._outputs = tuple(examples[0]), tuple(outputs)
        self.config: Any = getattr(model, "config", None)
        with tempfile.TemporaryDirectory() as folder:
            file, rounded = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
            _export(model, examples[0], outputs, file)
            self._session = _session(file)
            try:
                check(self, model, examples, outputs, _TOLERANCE, _failures())
            except Unfit as error:
                raise _refused(str(error)) from None
            if int8:
                quantize_dynamic(file, rounded, weight_type=QuantType.QInt8, per_channel=True)
                self._session = _session(rounded)
            if keep is not None:
                shutil.copyfile(rounded if int8 else file, keep)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Return the outputs, float32."""
        values = {name: inputs[name].numpy() for name in self._names}
        found = map(torch.from_numpy, self._session.run(None, values))
        return SimpleNamespace(**dict(zip(self._outputs, found, strict=True)))


def _export(model: nn.Module, example: Inputs, outputs: Sequence[str], file: Path) -> None:
    names = list(example)
    try:
        with recording():
            torch.onnx.export(
                Positional(model, names, outputs),
                tuple(example.values()),
                str(file),
                input_names=names,
                output_names=list(outputs),
                dynamic_axes={name: _AXES[example[name].dim()] for name in names},
                # The newer exporter (dynamo) takes more than ten times as long, for every replica.
                dynamo=False,
            )
    except RuntimeError as error:
        raise _refused(f"the model cannot be exported: {error}") from None


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _failures() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    return runtime.Fail, runtime.InvalidArgument, runtime.RuntimeException


def _refused(problem: str, fix: str = "set it to torch") -> ModelError:
    return ModelError.of("serve.backend", "onnx", problem, fix)
