"""What `--set KEY=VALUE` is taken for, and that it is said where that is not what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import load, serving

SPEC = """\
name: m
model: {name_or_path: x}
data: {train: a.csv}
train:
  groups: [{match: bias, learning_rate: 1}, {match: norm}]
tune: {space: {train.epochs: {choice: [1, 2]}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def at(spec: Any, path: str) -> Any:
    for name in path.split("."):
        spec = spec[int(name)] if name.isdigit() else getattr(spec, name)
    return spec


@pytest.mark.parametrize(
    "text",
    [
        "a #b", "#1", "*x", "@x", "%x", "&x", "!x", "|", ">", "`x`", "[x", "[x]", "{x", "{x: y}",
        "x: y", "- x", "010", "1", "0x1F", "1e3", ".5", "1_000", "yes", "true", "on", "12:30:45",
        "2020-01-01", "'x'", '"x"', "?", "a\tb", "x=y", "~/x", "--- x",
    ],
)  # fmt: skip
def test_a_key_that_takes_text_takes_what_was_typed(file: Path, text: str) -> None:
    said: list[str] = []
    spec = load(file, [f"data.train={text}", f"data.columns.text={text}"], said.append)
    assert (spec.data.train, spec.data.columns.text) == (text, text)
    assert said == []


# (override, its value in the spec, what is said; None: nothing)
TAKEN: dict[str, tuple[Any, str | None]] = {
    "train.epochs=10": (10, None),
    "train.epochs=010": (10, "010 is taken as 10"),
    "train.epochs=1_000": (1000, "1_000 is taken as 1000"),
    "train.epochs=1e1": (10, None),
    "train.epochs='10'": (10, "'10' is taken as 10"),
    "train.learning_rate=1e-4": (1e-4, None),
    "train.learning_rate=3": (3.0, None),
    "train.baselines=yes": (True, "yes is taken as true"),
    "train.baselines=0": (False, "0 is taken as false"),
    "train.baselines=False": (False, None),
    "train.trunk_cache=true": ("on", "true is taken as 'on'"),
    "train.trunk_cache=off": ("off", None),
    "storage=": (None, "nothing is taken as null"),
    "storage=null": (None, None),
    "train.unfreeze=[010, b]": (("010", "b"), None),
    "train.unfreeze=03": (3, "03 is taken as 3"),
    "data.validation=0.20": (0.2, None),
    "data.validation='0.2'": ("'0.2'", None),
    "train.groups.1.learning_rate=1e-3": (1e-3, None),
    "train.unfreeze=head": ("head", None),
}


@pytest.mark.parametrize("item", TAKEN)
def test_what_was_taken_is_said_where_it_differs(file: Path, item: str) -> None:
    value, told = TAKEN[item]
    said: list[str] = []
    spec = load(file, [item], said.append)
    key = item.partition("=")[0]
    assert at(spec, key) == value
    assert type(at(spec, key)) is type(value)
    assert said == ([f"--set {key}: {told}"] if told else [])


def test_a_number_in_a_list_is_said_where_it_differs(file: Path) -> None:
    said: list[str] = []
    space = "tune.space.train.epochs.choice=[2, '3', 1_0]"
    spec = load(file, [space], said.append)
    assert spec.tune is not None
    assert spec.tune.space["train.epochs"].values == (2, 3, 10)
    assert said == ["--set tune.space.train.epochs.choice: [2, '3', 1_0] is taken as [2, 3, 10]"]


def test_a_free_key_may_have_dots(file: Path) -> None:
    spec = load(file, ["train.lora={rank: 4}", r"train.lora.options.rank_pattern.query\.\d+=2"])
    assert spec.train.lora is not None
    assert spec.train.lora.options.rank_pattern == {r"query\.\d+": 2}


@pytest.mark.parametrize(
    ("item", "key", "said"),
    [
        ("train.groups.2.learning_rate=1", "train.groups.2.learning_rate", "list of 2"),
        ("train.groups.x.learning_rate=1", "train.groups.x.learning_rate", "no place in it"),
        ("train.groups.0.lr=1", "train.groups.0.lr", "Did you mean train.groups.0.learning_rate?"),
        ("name.x=1", "name.x", "name is not a section"),
        ("serve.batch.maxsize=3", "serve.batch.maxsize", "Did you mean serve.batch.max_size?"),
        ("a..b=3", "--set", "KEY=VALUE"),
        ("seed=" + "9" * 5000, "seed", "smaller number"),
        ("train.epochs=" + "[" * 9000, "train.epochs", "whole number"),
        ("train.epochs={a: &a [*a]}", "train.epochs", "whole number"),
        ("data.max_length=1e15", "data.max_length", "at most"),
    ],
)
def test_a_wrong_override_is_refused_in_one_short_line(
    file: Path, item: str, key: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(file, [item])
    (problem,) = caught.value.problems
    assert problem.key == key
    assert said in str(problem)
    assert len(str(problem)) < 600


@pytest.mark.parametrize(
    ("item", "key", "said"),
    [
        ("serve.batch.maxsize=3", "serve.batch.maxsize", "Did you mean serve.batch.max_size?"),
        ("serve.batch.wait_ms=-1", "serve.batch.wait_ms", "0 or more"),
        ("serve.replicas=4", "serve.replicas", "section of keys"),
        ("train.epochs=3", "--set", "not a key of the section serve"),
    ],
)
def test_a_key_of_serve_is_named_whole(item: str, key: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        serving([item])
    (problem,) = caught.value.problems
    assert problem.key == key
    assert said in str(problem)


def test_what_serve_takes_may_need_the_models_own_section() -> None:
    said: list[str] = []
    assert serving(["serve.precision=int8"], said.append) == {"precision": "int8"}
    assert serving(["serve.log_requests=yes"], said.append) == {"log_requests": "yes"}
    assert said == ["--set serve.log_requests: yes is taken as true"]
