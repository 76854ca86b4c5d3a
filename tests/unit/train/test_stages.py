"""Stages before a run: each trains the model of the one before, once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.store.runs.claim import claim_run
from ftray.train import stages as module
from ftray.train.check import ValidatedSpec, check_inputs
from ftray.train.inputs import inputs_of
from ftray.train.stages import after_stages
from tests.helpers.models.tiny_model import make_model
from tests.helpers.training.small_runs import MODEL, write_rows

STAGE = {"task": "fill-mask", "train": {"epochs": 2}}


def tree(folder: Path, **keys: Any) -> dict[str, Any]:
    rows = str(folder / "rows.jsonl")
    if not Path(rows).exists():
        write_rows(Path(rows), 60)
    stages = [{"name": name, **STAGE, "data": {"train": rows}} for name in ("domain", "closer")]
    base = {"name": "m", "model": {"name_or_path": MODEL}, "data": {"train": rows}}
    return {**base, "storage": str(folder / "data"), "stages": stages, "seed": 7, **keys}


def test_a_stage_has_its_own_task_and_what_the_run_has_besides(tmp_path: Path) -> None:
    first, second = parse(tree(tmp_path, scale={"workers": 2})).staged
    assert (first.name, second.name) == ("m-domain", "m-closer")
    assert (first.task, first.train.epochs, first.train.metric) == ("fill-mask", 2, "loss")
    assert (first.seed, first.scale.workers, first.storage) == (7, 2, str(tmp_path / "data"))
    assert not first.stages


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"data": {"train": "x"}}, r"stages\.0\.name: missing"),
        ({"name": "A b", "data": {"train": "x"}}, r"stages\.0\.name = A b.*Did you mean a-b"),
        ({"name": "a", "task": "fill-mask", "data": {"train": "x"}, "task_options": {"shre": 1}},
         r"stages\.0\.task_options\.shre.*share"),
        ({"name": "a", "task": "fill-mask", "data": {"train": "x", "columns": {"label": "y"}}},
         r"stages\.0\.data\.columns\.label"),
        ({"name": "a", "data": {"train": "x"}, "stages": []}, r"stages\.0\.stages.*unknown key"),
        ({"name": "a" * 47, "data": {"train": "x"}}, r"stages\.0\.name"),
        ("domain", r"stages\.0 = domain: must be a section"),
    ],
)  # fmt: skip
def test_a_wrong_stage_is_named_by_its_key(tmp_path: Path, stage: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(tree(tmp_path, stages=[stage]))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[ValidatedSpec]:
    """The specs that were trained: a fake that claims the run and registers a tiny model."""
    seen: list[ValidatedSpec] = []

    def train(checked: ValidatedSpec, say: Any, listener: Any) -> Any:
        seen.append(checked)
        spec = checked.spec
        run = claim_run(checked.root, spec, "train", spec, inputs_of(checked), say)
        folder = make_model(Path(checked.root.models(spec.name).path) / run.run_id, spec.name)
        version = checked.registry.register(spec.name, folder, run.run_id, {})
        run.set_status(state="done", model=version.name, version=version.version)
        return SimpleNamespace(version=version)

    monkeypatch.setattr(module, "train", train)
    return seen


def test_each_stage_trains_the_model_of_the_one_before_and_none_twice(
    tmp_path: Path, trained: list[ValidatedSpec]
) -> None:
    checked = check_inputs(parse(tree(tmp_path)))
    said: list[str] = []
    ready = after_stages(checked, said.append)
    first, second = (each.spec for each in trained)
    assert first.model == checked.spec.model
    assert "/models/m-domain/" in second.model.name_or_path
    assert "/models/m-closer/" in ready.spec.model.name_or_path
    assert not ready.spec.stages
    assert after_stages(checked, said.append).spec == ready.spec
    assert len(trained) == 2, "both are trained already"
    assert sum("is trained already" in line for line in said) == 2


def test_a_stage_whose_data_changed_is_trained_again(
    tmp_path: Path, trained: list[ValidatedSpec]
) -> None:
    after_stages(check_inputs(parse(tree(tmp_path))))
    write_rows(tmp_path / "rows.jsonl", 80, seed=2)
    after_stages(check_inputs(parse(tree(tmp_path))))
    assert len(trained) == 4


def test_a_fault_in_a_later_stage_is_found_before_the_first_is_trained(
    tmp_path: Path, trained: list[ValidatedSpec]
) -> None:
    stages = tree(tmp_path)["stages"]
    stages[1] = stages[1] | {"data": {"train": str(tmp_path / "missing.txt")}}
    checked = check_inputs(parse(tree(tmp_path, stages=stages)))
    with pytest.raises(Exception, match=r"missing\.txt"):
        after_stages(checked)
    assert not trained
