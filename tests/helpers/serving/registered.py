"""Registers versions of a model without weights, for tests that never load one."""

from __future__ import annotations

from typing import Any

from ftray.models.artifact.manifest import ModelInfo
from ftray.spec.schema import ModelSpec
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import ModelVersion


def register(
    registry: Registry, metric: str, value: float, digest: str = "d", **changes: Any
) -> tuple[ModelVersion, ModelInfo]:
    """Registers one more version of `m` with this validation metric."""
    run = f"20260101-000000-aaaaa{len(registry.versions('m')) + 1}"
    found = {
        "run": run,
        "data_digest": digest,
        "spec": {"train": {"metric": metric}},
        "metrics": {"validation": {metric: value}, "test": {metric: 0.5}},
    }
    info = info_of(**{**found, **changes})
    folder = registry.root.models("m") / info.run
    (folder / "ftray.json").write_text(info.model_dump_json())
    return registry.register("m", folder, info.run, {}), info


def info_of(**changes: Any) -> ModelInfo:
    """Returns the manifest of a model `m` of two labels."""
    return ModelInfo(
        name="m",
        run="20260101-000000-aaaaaa",
        task="text-classification",
        labels=("a", "b"),
        max_length=8,
        base=ModelSpec(name_or_path="x"),
        data_digest="d",
        spec={},
        metrics={},
        golden=(),
        ftray_version="0",
    ).model_copy(update=changes)
