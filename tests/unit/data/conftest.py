"""Small sources on disk, and a spec around them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftray.data.dataset import Dataset, read_dataset
from ftray.spec.load import parse

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Thirty usable rows of two labels."""
    return [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(30)]


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines and returns the path."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def read() -> Callable[..., Dataset]:
    """Reads a data set from the keys of a spec's data section."""

    def run(train: str, seed: int = 42, task: str = "text-classification", **data: Any) -> Dataset:
        model = {"name_or_path": "unused"}
        data = {"train": train, **data}
        return read_dataset(
            parse({"name": "t", "task": task, "seed": seed, "model": model, "data": data})
        )

    return run


@pytest.fixture(scope="session")
def demo_data() -> ModuleType:
    """The script jobs/demo_data.py as a module."""
    spec = importlib.util.spec_from_file_location("demo_data", JOBS / "demo_data.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
