"""The inputs that a run begins with: what is noticed of them, and which commit of a Hub model is
meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import DataError
from ftray.spec.load import parse
from ftray.store.runs.folder import RunFolder
from ftray.train.check import ValidatedSpec, check_inputs
from ftray.train.inputs import claimed, inputs_of, pinned, with_own_deepspeed
from tests.helpers.models.tiny_generator import make_base
from tests.helpers.training.small_runs import write_rows

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model")


def spec_of(folder: Path, **sections: Any) -> dict[str, Any]:
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_rows(rows, 60)
    return {
        "name": "small",
        "storage": str(folder / "storage"),
        "data": {"train": str(rows), "max_length": 16},
        **sections,
    }


def test_each_input_that_changes_is_noticed(tmp_path: Path, base: Path) -> None:
    model, deepspeed = tmp_path / "model", tmp_path / "ds.json"
    shutil.copytree(base, model)
    deepspeed.write_text('{"zero_optimization": {"stage": 2}}')
    tree = spec_of(
        tmp_path, model={"name_or_path": str(model)}, train={"deepspeed": str(deepspeed)}
    )

    def checked() -> ValidatedSpec:
        return check_inputs(parse(tree))

    def changes() -> str:
        return "; ".join(inputs_of(checked()).changes(began))

    began = inputs_of(checked())
    assert changes() == ""

    run = claimed(checked(), checked(), "train", print)
    deepspeed.write_text('{"zero_optimization": {"stage": 3}}')
    assert changes() == "the DeepSpeed file has changed (zero_optimization.stage: 2, now 3)"
    # The workers of the run read what it began with, wherever they are.
    own = with_own_deepspeed(checked().spec, run)
    assert isinstance(own.train.deepspeed, str)
    assert json.loads(Path(own.train.deepspeed).read_text())["zero_optimization"]["stage"] == 2
    deepspeed.write_text('{"zero_optimization": {"stage": 2}}')
    assert changes() == ""

    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "the base model's files have changed" in changes()
    shutil.copy(base / "model.safetensors", weights)
    (model / "config.json").touch()
    assert changes() == ""

    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"text": "another row, quite unlike the others", "label": "positive"}\n')
    assert "the data have changed (60 rows then, 61 rows now)" in changes()


@pytest.fixture
def hub(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub with two commits of a model, main at the first."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    for commit in (FIRST, SECOND):
        shutil.copytree(base, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(FIRST)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return repository


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_hub_model_is_one_commit_for_the_whole_run(
    hub: Path, tmp_path: Path, revision: str | None
) -> None:
    tree = spec_of(tmp_path, model={"name_or_path": "someone/tiny", "revision": revision})
    asked = check_inputs(parse(tree))
    checked = pinned(asked, "train")
    assert checked.spec.model.revision == FIRST
    run = claimed(asked, checked, "train", print)
    assert run.inputs is not None and run.inputs.base_commit == FIRST
    assert run.spec_tree()["model"]["revision"] == FIRST
    run.set_status(state="interrupted")

    (hub / "refs" / "main").write_text(SECOND)
    again = pinned(asked, "train")
    assert again.spec.model.revision == FIRST, "the commit that the run began with"
    assert claimed(asked, again, "train", print).run_id == run.run_id
    run = RunFolder(run.location)
    assert run.status.generation == 2

    new = pinned(asked, "tune")
    assert new.spec.model.revision == SECOND
    assert "commit aaaaaaaaaaaa, now bbbbbbbbbbbb" in "; ".join(
        inputs_of(new).changes(inputs_of(again))
    )


def test_the_groups_of_the_test_rows_are_known_before_the_run(tmp_path: Path, base: Path) -> None:
    tree = spec_of(tmp_path, model={"name_or_path": str(base)})
    file = tmp_path / "grouped.jsonl"
    lines = Path(tree["data"]["train"]).read_text().splitlines()
    rows = [
        {**json.loads(line), "region": "ns"[n % 2], "id": n} for n, line in enumerate(lines * 4)
    ]
    rows = [{**row, "text": f"{row['text']} {row['id']}"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def checked(group: str | None) -> ValidatedSpec:
        data = {"train": str(file), "max_length": 16, "test": 0.5, "group": group}
        return check_inputs(parse({**tree, "data": data}))

    found = checked("region")
    assert found.groups is not None and found.groups.names == ["n", "s"]
    place, test = 5, found.dataset.splits["test"]
    row = next(row for row in rows if row["text"] == test.table()["text"][place].as_py())
    assert found.groups.names[found.groups.codes[place]] == row["region"]
    assert checked(None).groups is None
    with pytest.raises(DataError, match="data.group = regoin: no row of .* has a value"):
        checked("regoin")
    table = "".join(f"{row['text']},{row['label']},{row['region']}\n" for row in rows)
    file.with_suffix(".csv").write_text(f"text,label,region\n{table}")
    files = {"train": str(file.with_suffix(".csv")), "group": "regoin"}
    with pytest.raises(DataError, match="data.group = regoin: no such .* mean region"):
        check_inputs(parse({**tree, "data": {**tree["data"], **files}}))
    with pytest.raises(DataError, match="data.group = id: 120 different values"):
        checked("id")


def test_a_folder_of_ones_own_has_no_commit(tmp_path: Path, base: Path) -> None:
    asked = check_inputs(parse(spec_of(tmp_path, model={"name_or_path": str(base)})))
    assert pinned(asked, "train") is asked
