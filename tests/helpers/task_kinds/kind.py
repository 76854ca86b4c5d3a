"""One task with its rows and its base model, from a spec to encoded rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Kind:
    """One task: how to write rows and a base model, and the parts of a spec that it needs.

    rows: writes a source below a folder and returns it; base: writes a base model; ask: the inputs
    of one request, as JSON has them.
    """

    task: str
    rows: Callable[[Path, int], Path]
    base: Callable[[Path], Path]
    ask: Callable[[], Any]
    data: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rate: float = 5e-3
    new_base: str = ""
    """The base model where it is made for the data, in place of a folder."""

    def tree(self, folder: Path, rows: int = 60, **sections: dict[str, Any]) -> dict[str, Any]:
        """A spec as plain values, whose source and base model lie below `folder`."""
        base, source = folder / "base", folder / "rows"
        if not source.exists():
            self.base(base)
            source.mkdir()
            self.rows(source, rows)
        spec: dict[str, Any] = {
            "name": "tiny",
            "task": self.task,
            "storage": str(folder / "storage"),
            "model": {"name_or_path": self.new_base or str(base)},
            "data": {
                "train": str(self.source(source)),
                "validation": 0.2,
                "test": 0.2,
                **self.data,
            },
            "task_options": self.options,
            "train": {
                "epochs": 2,
                "batch_size": 8,
                "micro_batch_size": 4,
                "learning_rate": self.rate,
                "unfreeze": "all",
                "precision": "fp32",
            },
        }
        for name, values in sections.items():
            spec[name] = {**spec.get(name, {}), **values} if isinstance(values, dict) else values
        return spec

    @staticmethod
    def source(folder: Path) -> Path:
        """The file below the folder, or the folder itself where it holds folders."""
        files = [path for path in folder.iterdir() if path.is_file()]
        return files[0] if files else folder


def close_to(answer: Any, tolerance: float) -> Any:
    """What equals an answer whose numbers differ by at most `tolerance`."""
    if isinstance(answer, dict):
        return {name: close_to(value, tolerance) for name, value in answer.items()}
    if isinstance(answer, list):
        return [close_to(value, tolerance) for value in answer]
    return (
        pytest.approx(answer, rel=tolerance, abs=tolerance) if isinstance(answer, float) else answer
    )


@dataclass(frozen=True)
class Splits:
    """Stands in for EncodedDataset: gives splits of encoded rows by name."""

    schema: Any
    splits: dict[str, Any]
    location: Any

    def load(self, split: str) -> Any:
        return self.splits[split]


def prepared(kind: Kind, folder: Path, train: dict[str, Any], world: int) -> tuple[Any, Any, Any]:
    """The spec of a run, its encoded rows and its base model, without Ray."""
    import pyarrow as pa

    from ftray.data.dataset import read_dataset
    from ftray.data.encoding.encoded import EncodedSplit
    from ftray.data.encoding.shards import arrow_batch
    from ftray.spec.load import parse
    from ftray.store.files.location import locate
    from ftray.tasks import get_task
    from ftray.train.base import load_base

    spec = parse(kind.tree(folder, train=train, scale={"workers": world}))
    dataset, task = read_dataset(spec), get_task(spec.task)
    base = load_base(spec, dataset.schema)
    features = task.features(base.setup)
    splits = {}
    for name, rows in dataset.splits.items():
        examples = task.examples(base.setup, rows.table().to_pydict())
        table = pa.Table.from_batches([arrow_batch(examples, features, 0)])
        splits[name] = EncodedSplit([table], features)
    return spec, Splits(dataset.schema, splits, locate(str(folder))), base
