"""What is said where an older version of the model does better than the one just trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ftray.models.folder import ModelInfo
from ftray.spec.schema import ModelSpec
from ftray.store.location import locate
from ftray.store.registry import Registry
from ftray.store.root import Root
from ftray.store.versions import ModelVersion
from ftray.train.older_versions import better_version


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry.open(Root(locate(str(tmp_path / "root"))))


def add(
    registry: Registry, metric: str, value: float, digest: str = "d", **changes: Any
) -> tuple[ModelVersion, ModelInfo]:
    """One more version of `m` with that validation metric."""
    number = len(registry.versions("m")) + 1
    info = ModelInfo(
        name="m",
        run=f"20260101-000000-aaaaa{number}",
        task="text-classification",
        labels=("a", "b"),
        max_length=8,
        base=ModelSpec(name_or_path="x"),
        data_digest=digest,
        spec={"train": {"metric": metric}},
        metrics={"validation": {metric: value}, "test": {metric: 0.5}},
        golden=(),
        ftray_version="0",
    ).model_copy(update=changes)
    folder = registry.root.models("m") / info.run
    (folder / "ftray.json").write_text(info.model_dump_json())
    return registry.register("m", folder, info.run, {}), info


def test_the_first_version_and_the_best_one_have_no_better(registry: Registry) -> None:
    assert better_version(registry, *add(registry, "accuracy", 0.7)) is None
    assert better_version(registry, *add(registry, "accuracy", 0.7)) is None
    assert better_version(registry, *add(registry, "accuracy", 0.8)) is None


def test_the_best_of_the_older_ones_is_named(registry: Registry) -> None:
    for value in (0.7, 0.9, 0.8):
        add(registry, "accuracy", value)
    said = better_version(registry, *add(registry, "accuracy", 0.6))
    assert said is not None
    assert said.startswith("m:2 does better on its validation split: accuracy 0.9000 against 0.6")
    assert "not the same rows" not in said


def test_of_a_loss_the_lower_is_better(registry: Registry) -> None:
    add(registry, "loss", 0.5)
    assert better_version(registry, *add(registry, "loss", 0.4)) is None
    said = better_version(registry, *add(registry, "loss", 0.6))
    assert said is not None and said.startswith("m:2 does better")


def test_other_rows_are_said_to_be_others(registry: Registry) -> None:
    add(registry, "accuracy", 0.9, digest="other")
    said = better_version(registry, *add(registry, "accuracy", 0.8))
    assert said is not None and "not the same rows" in said


def test_other_tasks_other_metrics_and_lost_folders_are_no_rivals(registry: Registry) -> None:
    add(registry, "accuracy", 0.9, task="text-generation")
    add(registry, "f1_macro", 0.9)
    lost, _ = add(registry, "accuracy", 0.9)
    shutil.rmtree(lost.folder.path)
    assert better_version(registry, *add(registry, "accuracy", 0.8)) is None
