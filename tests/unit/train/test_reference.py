"""What the base model gave for a data set's examples is kept in one file beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftray.store.files.location import locate
from ftray.train.reference import ReferenceFile
from tests.helpers.models.encoded import split_of

SPLITS = {"train": split_of([[1, 2], [3]], [0, 1]), "validation": split_of([[4]], [0])}
FOUND = {
    "train": {"reference": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)},
    "validation": {"reference": np.array([[5.0, 6.0]], np.float32)},
}


@pytest.fixture
def file(tmp_path: Path) -> ReferenceFile:
    return ReferenceFile(locate(str(tmp_path / "base.safetensors")), ("reference",), writes=True)


def test_what_was_written_is_read(file: ReferenceFile) -> None:
    assert file.read(SPLITS) is None
    file.write(FOUND)
    found = file.read(SPLITS)
    assert found is not None
    for split, columns in FOUND.items():
        assert np.array_equal(found[split]["reference"], columns["reference"])
        having = SPLITS[split].having(found[split])
        assert having.example(0)["reference"].tolist() == columns["reference"][0].tolist()
        assert "reference" not in SPLITS[split].example(0)


def test_one_rank_writes(file: ReferenceFile) -> None:
    ReferenceFile(file.file, file.names, writes=False).write(FOUND)
    assert not file.file.exists()


@pytest.mark.parametrize("damage", ["cut", "garbage", "of other rows"])
def test_a_damaged_file_counts_as_missing(file: ReferenceFile, damage: str) -> None:
    file.write(FOUND)
    path = Path(file.file.path)
    if damage == "of other rows":
        file.write({**FOUND, "train": FOUND["validation"]})
    else:
        path.write_bytes(path.read_bytes()[:-3] if damage == "cut" else b"no tensors")
    assert file.read(SPLITS) is None
