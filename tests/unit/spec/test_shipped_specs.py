"""Every spec that ftray ships or writes is valid, for ftray and by the JSON Schema it prints."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import SpecError
from ftray.spec.load import dump, load, override, parse
from ftray.spec.schema import Spec, micro_batch_size
from ftray.spec.sections.serving import ServeSpec
from ftray.spec.starter import starter
from ftray.tasks import TASKS

ROOT = Path(__file__).parents[3]


def is_spec(path: Path) -> bool:
    tree = yaml.safe_load(path.read_text()) if path.read_text().count("\n---\n") == 0 else None
    return isinstance(tree, dict) and {"name", "model", "data"} <= tree.keys()


SHIPPED = [
    path
    for folder in ("jobs", "k8s", "tests/bench")
    for path in sorted((ROOT / folder).rglob("*.yaml"))
    if "data" not in path.relative_to(ROOT).parts and is_spec(path)
]

RECIPES = [path.read_text() for path in SHIPPED if path.parent.name == "recipes"]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """What `ftray schema` prints."""
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Checks documents without checking the schema anew each time, which takes longer."""
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(params=[*SHIPPED, *TASKS], ids=str)
def text(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shipped file, or what `ftray init TASK` writes."""
    if isinstance(request.param, Path):
        return request.param.read_text()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", request.param])
    assert result.exit_code == 0, result.output
    return (tmp_path / "ftray.yaml").read_text()


def test_specs_are_shipped_for_the_demo_and_for_kubernetes() -> None:
    assert {ROOT / "jobs/movie-sentiment.yaml", ROOT / "k8s/parts/movie-sentiment.yaml"} <= set(
        SHIPPED
    )


def test_it_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    spec = load(path)
    assert parse(yaml.safe_load(dump(spec))) == spec


def test_the_schema_accepts_it_as_written_and_as_resolved(
    text: str, validator: jsonschema.Draft202012Validator
) -> None:
    tree = yaml.safe_load(text)
    validator.validate(tree)
    validator.validate(yaml.safe_load(dump(parse(tree))))


def test_it_sweeps_what_people_tune_first(text: str) -> None:
    """Recipes show one thing each, and few show a sweep."""
    spec = parse(yaml.safe_load(text))
    if text not in RECIPES:
        assert spec.tune is not None
        assert {"train.learning_rate", "train.unfreeze"} <= spec.tune.space.keys()


def test_it_runs_on_any_number_of_workers_it_may_get(text: str) -> None:
    spec = parse(yaml.safe_load(text))
    for workers in (1, 2, 4):
        assert micro_batch_size(override(spec, {"scale.workers": workers}), workers) >= 1


def test_it_serves_by_its_rayservice_as_by_its_spec() -> None:
    documents = yaml.safe_load_all((ROOT / "k8s/parts/ray-service.yaml").read_text())
    (application,) = yaml.safe_load(next(documents)["spec"]["serveConfigV2"])["applications"]
    arguments = application["args"]
    spec = load(ROOT / "k8s/parts/movie-sentiment.yaml")
    assert arguments["model"].partition("@")[0] == spec.name
    section = {key: value for key, value in arguments.items() if key in ServeSpec.model_fields}
    tree = {**spec.model_dump(mode="json"), "serve": section}
    assert parse(tree).serve.model_dump(exclude_unset=True) == section


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Spec.model_fields)
    assert set(schema["required"]) == {"name", "model", "data"}


@pytest.mark.parametrize(
    "changes",
    [
        {"trian": {}},
        {"train": {"learning_rte": 1}},
        {"train": {"epochs": "x"}},
        {"train": {"epochs": 0}},
        {"train": {"unfreeze": -1}},
        {"train": {"warmup": 1.0}},
        {"serve": {"batch": {"wait_ms": -1}}},
        {"scale": {"gpus_per_worker": -1}},
        {"train": {"unfreeze": "two"}},
        {"train": {"deepspeed": {"stage": 4}}},
        {"name": "My Model"},
        {"model": {}},
        {"tune": {"space": {}}},
        {"data": {"train": "a.csv", "validation": 1.5}},
    ],
)
def test_the_schema_refuses_what_ftray_refuses(
    validator: jsonschema.Draft202012Validator, changes: dict[str, Any]
) -> None:
    tree = yaml.safe_load(starter("text-classification"))
    validator.validate(tree)
    wrong = {**copy.deepcopy(tree), **changes}
    with pytest.raises(SpecError):
        parse(wrong)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(wrong)


def test_every_key_is_described_or_plain(schema: dict[str, Any]) -> None:
    """What an editor shows for a key whose values are not plain to see."""
    sections = schema["$defs"]
    for section, key in [
        ("TrainSpec", "batch_size"),
        ("TrainSpec", "unfreeze"),
        ("DataSpec", "train"),
        ("ModelSpec", "name_or_path"),
        ("ScaleSpec", "workers"),
        ("TuneSpec", "space"),
        ("Batching", "wait_ms"),
    ]:
        assert sections[section]["properties"][key]["description"]


def test_init_knows_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", "text-clasification"])
    assert result.exit_code == 2
    assert "Did you mean text-classification?" in result.stderr
    assert not list(tmp_path.iterdir())


def test_init_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ftray.yaml").write_text("mine")
    result = CliRunner().invoke(app, ["init"])
    assert result.exit_code == 2
    assert "ftray.yaml" in result.stderr
    assert (tmp_path / "ftray.yaml").read_text() == "mine"


def test_init_writes_where_it_is_told(tmp_path: Path) -> None:
    target = tmp_path / "other.yaml"
    result = CliRunner().invoke(app, ["init", "--out", str(target)])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert load(target).task == "text-classification"


def test_every_task_has_a_starter() -> None:
    for task in TASKS:
        assert parse(yaml.safe_load(starter(task))).task == task
