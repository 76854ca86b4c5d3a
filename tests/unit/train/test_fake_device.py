"""A step keeps to its device, from planning to evaluation: no GPU is needed to find out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.training.fake_device_runs import CASES

QUICK = ("bert", "llama")


@pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_a_run_keeps_to_its_device(family: str) -> None:
    command = [sys.executable, "-m", "tests.helpers.training.fake_device_runs", family]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert family in ended.stdout
