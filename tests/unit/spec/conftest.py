"""A spec file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.small_spec import TEXT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The smallest spec, in a file."""
    path = tmp_path / "spec.yaml"
    path.write_text(TEXT)
    return path
