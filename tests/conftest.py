"""Which tests stay together when they are spread over processes: those that share what is dear."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item.path.relative_to(_HERE))))


def _group(file: Path) -> str:
    if file.parent.name == "loop":
        return "loop"  # the runs of tests/unit/loop/conftest.py
    if file.parent.name == "ray" and file.name.startswith("test_train"):
        return "train"  # the run `plain`
    return str(file)
