"""Classifiers in ONNX Runtime: the same answers, faster, or a word about why not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.artifact.onnx_file import ONNX, write_onnx
from ftray.models.backends.onnx import OnnxModel
from ftray.models.inference.loaded import TOLERANCES
from ftray.models.inference.predictor import Predictor
from ftray.models.load import load_model
from ftray.spec.sections.compute import Compute
from ftray.store.files.location import Location
from tests.helpers.models.odd_networks import Odd, Rigid
from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import GOLDEN, logits_of, make_model, tamper
from tests.helpers.models.tiny_networks import tiny_batch, tiny_network

TEXTS = [*GOLDEN, "Bad.", "It is neither good nor bad " * 20, "naïve – 日本語 🎬", "Dull " * 7]
FP32, INT8 = Compute("onnx", "fp32"), Compute("onnx", "int8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_model(tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="module")
def exact(made: Location) -> Predictor:
    return Predictor(made)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_answers_are_those_of_torch(made: Location, exact: Predictor, batch_size: int) -> None:
    found = Predictor(made, batch_size, FP32)
    found.check_golden()
    torch.testing.assert_close(
        logits_of(found, TEXTS), logits_of(exact, TEXTS), rtol=1e-5, atol=1e-5
    )
    assert found.answers(TEXTS[:2], 2)[0][0].keys() == {"label", "score"}


def test_the_file_of_an_export_runs_without_ftray(
    made: Location, exact: Predictor, tmp_path: Path
) -> None:
    from onnxruntime import InferenceSession
    from transformers import AutoTokenizer

    write_onnx(Path(made.path), tmp_path / ONNX)
    read = AutoTokenizer.from_pretrained(made.path)(
        TEXTS[:3], padding=True, truncation=True, max_length=exact.info.max_length
    )
    session = InferenceSession(str(tmp_path / ONNX), providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}
    (found,) = session.run(["logits"], {n: np.array(v) for n, v in read.items() if n in names})
    torch.testing.assert_close(
        torch.from_numpy(found), logits_of(exact, TEXTS[:3]), rtol=1e-5, atol=1e-5
    )


def test_a_model_that_writes_has_no_file(tmp_path: Path) -> None:
    folder = make_generator(tmp_path / "writer")
    with pytest.raises(ModelError, match="--onnx.*many forward passes"):
        write_onnx(Path(folder.path), tmp_path / ONNX)
    assert not (tmp_path / ONNX).exists()


def test_int8_answers_nearly_the_same_and_holds_the_golden_answers(
    made: Location, exact: Predictor
) -> None:
    found = load_model(made, compute=INT8)
    assert isinstance(found, Predictor)
    found.check_golden()
    gap = (logits_of(found, TEXTS).softmax(-1) - logits_of(exact, TEXTS).softmax(-1)).abs().max()
    assert 0 < gap < TOLERANCES["int8"]


def test_a_model_that_was_changed_does_not_hold_them(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tamper(tmp_path / "model")
    with pytest.raises(ModelError, match="golden answers of tiny") as caught:
        Predictor(folder, compute=INT8).check_golden()
    assert "serve.precision to fp32" in caught.value.problems[0].fix


@pytest.mark.parametrize("family", ["distilbert", "deberta-v2", "modernbert", "gemma2"])
def test_of_any_shape_in_any_family(family: str) -> None:
    model = tiny_network(family).eval()
    batches = [tiny_batch(rows, tokens) for rows, tokens in ((2, 6), (1, 1), (3, 9), (5, 14))]
    found = OnnxModel(model, batches[:2], ("logits",), int8=False)
    for batch in batches:
        with torch.inference_mode():
            wanted = model(**batch).logits
        torch.testing.assert_close(found(**batch).logits, wanted, rtol=1e-5, atol=1e-5)


class Unheard(nn.Module):
    """A model with an operator that ONNX does not have."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.special.bessel_j0(input_ids.float()))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (Odd(), "is off by .* where the input is 3 x 9"),
        (Rigid(), "fails where the input is 3 x 9"),
        (Unheard(), "bessel"),
    ],
)
def test_a_model_that_onnx_cannot_tell_is_refused(model: nn.Module, problem: str) -> None:
    batches = [tiny_batch(2, 6), tiny_batch(3, 9)]
    with pytest.raises(ModelError, match=problem) as caught:
        OnnxModel(model, batches, ("logits",), int8=False)
    assert caught.value.problems[0].key == "serve.backend"
    assert "torch" in caught.value.problems[0].fix


def test_without_the_package_it_says_which_one(
    made: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(ModelError, match="needs a package more") as caught:
        Predictor(made, compute=FP32)
    assert "ftray[onnx]" in caught.value.problems[0].fix
