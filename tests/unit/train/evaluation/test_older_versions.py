"""What is said where an older version of the model does better than the one just trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root
from ftray.train.evaluation.older_versions import better_version
from tests.helpers.serving.registered import register


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry(Root(locate(str(tmp_path / "root"))))


def test_the_first_version_and_the_best_one_have_no_better(registry: Registry) -> None:
    assert better_version(registry, *register(registry, "accuracy", 0.7)) is None
    assert better_version(registry, *register(registry, "accuracy", 0.7)) is None
    assert better_version(registry, *register(registry, "accuracy", 0.8)) is None


def test_the_best_of_the_older_ones_is_named(registry: Registry) -> None:
    for value in (0.7, 0.9, 0.8):
        register(registry, "accuracy", value)
    said = better_version(registry, *register(registry, "accuracy", 0.6))
    assert said is not None
    assert said.startswith("m:2 does better on its validation split: accuracy 0.9000 against 0.6")
    assert "not the same rows" not in said


def test_of_a_loss_the_lower_is_better(registry: Registry) -> None:
    register(registry, "loss", 0.5)
    assert better_version(registry, *register(registry, "loss", 0.4)) is None
    said = better_version(registry, *register(registry, "loss", 0.6))
    assert said is not None and said.startswith("m:2 does better")


def test_other_rows_are_said_to_be_others(registry: Registry) -> None:
    register(registry, "accuracy", 0.9, digest="other")
    said = better_version(registry, *register(registry, "accuracy", 0.8))
    assert said is not None and "not the same rows" in said


def test_other_tasks_other_metrics_and_lost_folders_are_no_rivals(registry: Registry) -> None:
    register(registry, "accuracy", 0.9, task="text-generation")
    register(registry, "f1_macro", 0.9)
    lost, _ = register(registry, "accuracy", 0.9)
    shutil.rmtree(lost.folder.path)
    assert better_version(registry, *register(registry, "accuracy", 0.8)) is None
