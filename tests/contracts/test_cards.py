"""The example of a model's card, for every task: it runs with transformers where ftray is not
installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from ftray import __version__
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.artifact.publish import finish, place, staged, write_json
from ftray.spec.load import parse
from ftray.store.files.location import locate
from ftray.tasks import TASKS, get_task
from tests.helpers.task_samples import SAMPLES, columns_of, picture

HUB_TASKS = {
    "multi-label-classification": "text-classification",
    "next-item-prediction": "other",
    "preference-tuning": "text-generation",
    "tabular-fill-mask": "fill-mask",
    "text-regression": "text-classification",
}
"""Tasks of ours that the Hub does not know -> what it calls them."""
RUNNER = """
import contextlib, importlib.util, io, json, pathlib, sys, traceback

assert importlib.util.find_spec("ftray") is None
said = {}
for task in sys.argv[1:]:
    text = pathlib.Path(task, "README.md").read_text()
    code = text.split("```python\\n")[1].split("```")[0].replace("PATH OF THIS FOLDER", task)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            exec(code, {})
        except Exception:
            said[task] = [code, traceback.format_exc()]
        else:
            said[task] = ["", out.getvalue()]
print(json.dumps(said))
"""


def write_model(folder: Path, name: str) -> None:
    """Writes a model folder of a task with random weights, as an export does."""
    task, sample = get_task(name), SAMPLES[name]
    setup = sample.setup(task)
    folder.mkdir()
    base = folder.with_name(f"base-{name}")
    base.mkdir()
    torch.manual_seed(0)
    model = task.empty_model(sample.write_base(base), setup.schema, dtype=torch.float32)
    data = {
        "train": "rows.jsonl",
        "columns": {column: column for column in columns_of(sample.rows)},
    }
    tree = {"name": name, "task": name, "model": {"name_or_path": str(base)}, "data": data}
    spec = parse(tree)
    info = ModelInfo(
        name=name,
        run="20250101-000000-tiny",
        task=name,
        labels=setup.schema.labels,
        scale=setup.schema.scale,
        columns=setup.schema.columns,
        decision=setup.schema.decision,
        max_length=setup.max_length,
        base=spec.model,
        data_digest="0" * 16,
        spec=spec.model_dump(mode="json"),
        metrics={"test": {"loss": 0.5}},
        golden=(),
        ftray_version=__version__,
    )
    with staged(model, setup.processor, setup.max_length) as staging:
        write_json(staging, task.extra_files(model, setup))
        finish(place(staging, info, locate(str(folder))), locate(str(folder)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    for name in TASKS:
        write_model(folder / name, name)
    (folder / "photo.jpg").write_bytes(picture(200, kind="JPEG"))
    return folder


@pytest.fixture(scope="module")
def said(folders: Path) -> dict[str, tuple[str, str]]:
    """Task -> the code that failed, empty where it ran, and what it printed."""
    # Without `site` Python reads no .pth files, by which ftray is installed here.
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUNNER, *TASKS],
        cwd=folders,
        env={"PYTHONPATH": ":".join(paths), "HF_HUB_OFFLINE": "1", "HOME": str(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", TASKS)
def test_its_example_runs_without_ftray(said: dict[str, tuple[str, str]], name: str) -> None:
    code, printed = said[name]
    assert not code, f"{code}\n{printed}"
    assert re.search(r"\w", printed)


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_reads_it(folders: Path, name: str) -> None:
    data = ModelCard.load(folders / name / "README.md").data  # raises for an invalid model-index
    assert (data.library_name, data.pipeline_tag) == ("transformers", HUB_TASKS.get(name, name))
