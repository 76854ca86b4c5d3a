"""Lines for people that were once read wrongly: what each says now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftray import doctor
from ftray.cli.serve import _warn_of_precision
from ftray.cli.train import show_trained
from ftray.data.cleaning.report import CleaningReport, SourceCount
from ftray.spec.sections.serving import ServeSpec


def test_rows_that_are_left_out_are_told_in_words() -> None:
    counts = {
        "train": SourceCount(9, {"conflicting_duplicate": 2, "duplicate": 1, "no_answer": 1}),
        "test": SourceCount(1, {}),
    }
    report = CleaningReport(counts, {})
    assert list(report.lines()) == [
        "train: 9 rows read, 2 duplicates with other labels, 1 duplicate, 1 row (no answer) left "
        "out",
        "test: 1 row read, none left out",
    ]


def test_the_end_of_a_sweep_names_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = {
        "model": "m",
        "version": 3,
        "metrics": {"test": {"loss": 1.5, "perplexity": 4.5}},
        "report": str(tmp_path / "runs" / "report.html"),
        "model_dir": str(tmp_path / "models"),
    }
    show_trained(result, as_json=False)
    said = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.err.splitlines()]
    assert lines == [
        "test loss 1.5000 perplexity 4.5000",
        "report runs/report.html",
        "model models",
        "next ftray serve m:3",
    ]
    assert said.out == "m:3\n"


@pytest.mark.parametrize(
    ("capable", "settings", "said"),
    [
        (False, {"precision": "bf16"}, "serve.precision: bf16 is slow here"),
        (True, {"precision": "bf16"}, ""),
        (False, {"precision": "fp32"}, ""),
        (False, {"precision": "bf16", "gpus_per_replica": 1}, ""),
    ],
)
def test_bf16_on_a_processor_without_it_is_told_to_be_slow(
    capable: bool,
    settings: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": capable})
    _warn_of_precision(ServeSpec(**settings))
    told = capsys.readouterr().err
    assert told.startswith(said) and bool(told) == bool(said)


@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "torch is built without CUDA"), ("13.0", "built for CUDA 13.0")]
)
def test_a_gpu_that_is_missing_is_told_with_what_torch_is_built_for(
    cuda: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor, "visible_gpus", lambda: 0)
    (found,) = [finding for finding in doctor._torch() if finding.what == "GPU"]
    assert found.state == "missing" and said in found.value
