"""Imports go down the floors only and in no circle, and what must start quickly imports nothing
heavy."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from ftray.tasks import TASKS

PACKAGE = Path(__file__).parents[2] / "ftray"
FLOORS = {
    "errors": 0, "digest": 0, "cluster": 0, "near": 0, "interrupt": 0,
    "tasks": 1,
    "spec": 2,
    "store": 3, "models": 3, "data": 3, "reports": 3,
    "train": 4, "serve": 4, "offline": 4,
    "tune": 5,
    "submit": 5, "doctor": 5,
    "cli": 6,
    "job": 7,
}  # fmt: skip
# Floor 3 is one floor with an order of its own: where things lie, models, rows, reports.
ORDER = {"store": 0, "models": 1, "data": 2, "reports": 3}
FILES = sorted(PACKAGE.rglob("*.py"))


def _part(module: str) -> str:
    return (module.split(".") + [""])[1]


def _imports(source: str) -> Iterator[str]:
    """The parts of ftray that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                _part(alias.name) for alias in node.names if alias.name.startswith("ftray.")
            )
        if isinstance(node, ast.ImportFrom) and node.module == "ftray":
            yield from (alias.name for alias in node.names if alias.name in FLOORS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ftray."):
            yield _part(node.module or "")


def _is_allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer in ORDER and imported in ORDER:
        return ORDER[importer] > ORDER[imported]
    return FLOORS[importer] > FLOORS[imported] or FLOORS[importer] == FLOORS[imported] == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file: Path) -> None:
    relative = file.relative_to(PACKAGE)
    importer = relative.parts[0].removesuffix(".py")
    if importer in ("__init__", "__main__"):
        return
    wrong = [part for part in _imports(file.read_text()) if not _is_allowed(importer, part)]
    assert not wrong, f"{relative} imports {wrong}"


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("train", "from ftray.data.batches import BatchPlan", True),
        ("train", "from ftray.serve.app import build", False),
        ("serve", "def f():\n    import ftray.train.run", False),
        ("spec", "from ftray.store import root", False),
        ("store", "from ftray.models.artifact.manifest import read_info", False),
        ("data", "from ftray.store.root import Root", True),
    ],
)
def test_the_check_can_fail(importer: str, source: str, allowed: bool) -> None:
    parts = list(_imports(source))
    assert parts
    assert all(_is_allowed(importer, part) for part in parts) == allowed


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ftray.cli.main", {"ray", "torch", "transformers", "pydantic", "pyarrow", "mlflow"}),
        ("ftray.train.check", {"ray", "torch", "transformers", "mlflow", "deepspeed"}),
        ("ftray.serve.app", {"torch", "transformers", "deepspeed", "ftray.train", "sklearn"}),
        ("ftray.serve.replica", {"deepspeed", "ftray.train", "sklearn"}),
    ],
)
def test_what_starts_quickly_imports_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(run.stdout.split())


MOST_FILES = 15
MADE_BY_THE_DEMO = PACKAGE.parent / "jobs" / "data"
FOLDERS = ("ftray", "jobs", "cluster", "k8s", "docs", "tests")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_holds_few_files(name: str) -> None:
    files = (file for file in (PACKAGE.parent / name).rglob("*") if file.is_file())
    held = Counter(file.parent for file in files if file.name != "__init__.py")
    crowded = {folder: files for folder, files in held.items() if files > MOST_FILES}
    made = {folder for folder in crowded if folder.name == "__pycache__"} | {MADE_BY_THE_DEMO}
    assert not {str(folder): crowded[folder] for folder in crowded.keys() - made}


def _module(file: Path) -> str:
    name = ".".join(["ftray", *file.relative_to(PACKAGE).with_suffix("").parts])
    return name.removesuffix(".__init__")


def _imported_files(source: str, modules: set[str]) -> Iterator[str]:
    """The modules of ftray that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield from {inside if inside in modules else node.module or ""} & modules


def test_no_files_import_each_other_in_a_circle() -> None:
    sources = {_module(file): file.read_text() for file in FILES}
    above = {m: set(_imported_files(s, set(sources))) - {m} for m, s in sources.items()}
    assert len(list(TopologicalSorter(above).static_order())) == len(FILES)


def _words(source: str) -> Iterator[str]:
    """The texts in a file, docstrings among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, tuple[str, list[str]]]:
    """Of each file outside tasks/: its source, and the texts in it."""
    files = [file for file in FILES if PACKAGE / "tasks" not in file.parents]
    sources = {str(file): file.read_text() for file in files}
    return {file: (source, list(_words(source))) for file, source in sources.items()}


@pytest.mark.parametrize("name", TASKS)
def test_no_file_outside_tasks_names_a_task(
    name: str, elsewhere: dict[str, tuple[str, list[str]]]
) -> None:
    kind = type(TASKS[name]).__name__
    assert not [file for file, (_, words) in elsewhere.items() if any(name in w for w in words)]
    assert not [file for file, (source, _) in elsewhere.items() if kind in source]
