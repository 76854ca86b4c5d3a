"""docs/architecture.md names files, functions and classes that there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)(?::([\w.]+))?`", PAGE)))
FOLDERS = sorted(set(re.findall(r"`((?:[a-z_]+/)+)`", PAGE)))


def test_the_page_names_something() -> None:
    assert len(NAMED) > 40 and len(FOLDERS) > 20


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_name_resolves(file: str, name: str) -> None:
    if file.startswith("tests/"):
        assert (ROOT / file).is_file()
        return
    assert (ROOT / "ftray" / file).is_file()
    found = importlib.import_module("ftray." + file.removesuffix(".py").replace("/", "."))
    for part in name.split(".") if name else ():
        found = getattr(found, part)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_there(folder: str) -> None:
    assert (ROOT / folder).is_dir() or (ROOT / "ftray" / folder).is_dir()


def test_every_folder_of_the_package_is_named() -> None:
    package = ROOT / "ftray"
    held = {f"{file.parent.relative_to(package)}/" for file in package.rglob("*.py")} - {"./"}
    named = {folder for folder in held if f"`{folder}`" in PAGE}
    below = {f for f in held - named if any(f.startswith(other) for other in named)}
    assert not held - named - below
