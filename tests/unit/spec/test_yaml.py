"""What a YAML file holds is read as people mean it, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftray.errors import SpecError
from ftray.spec.load import load, parse
from ftray.spec.sections.training import DeepSpeedSpec
from tests.helpers.small_spec import TEXT, tree


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a mapping"),
        (b"- a\n- b\n", "not a mapping"),
        (b"just words", "not a mapping"),
        (b"name: [1\n", "line 2"),
        (b"name: m\n\tdata: x\n", "not YAML"),
        (b"name: m\nname: n\n", "the key name is given twice"),
        (b"name: m\ntrain:\n  epochs: 1\n  epochs: 2\n", "the key epochs is given twice"),
        (b"name: \xe9\n", "not UTF-8"),
        (b"name: \x00\n", "not YAML"),
        (b"name: !!python/object:os.system x\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(
    file: Path, content: bytes, problem: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(file)
    assert caught.value.problems[0].key == str(file)
    assert problem in caught.value.problems[0].problem


@pytest.mark.parametrize(
    ("name", "problem"), [("no-such.yaml", "no such spec file"), (".", "directory")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path / name)
    (found,) = caught.value.problems
    assert found.key == str(tmp_path / name)
    assert problem in found.problem


def test_numbers_are_read_as_people_write_them(file: Path) -> None:
    file.write_text(
        TEXT + "train: {learning_rate: 2e-5, weight_decay: 1E-2}\n"
        "tune: {space: {train.learning_rate: {choice: [2e-5, 1.5e-4, 1e-3]}}}\n"
    )
    spec = load(file)
    assert spec.train.learning_rate == 2e-5
    assert spec.train.weight_decay == 0.01
    assert spec.tune is not None
    assert spec.tune.space["train.learning_rate"].values == (2e-5, 1.5e-4, 1e-3)


def test_words_stay_words_and_quoted_numbers_are_numbers(file: Path) -> None:
    file.write_text(
        "name: 2020-01-01\nmodel: {name_or_path: x}\n"
        "data: {train: 12:30, columns: {text: no, label: 010}, validation: '0.2'}\n"
        "train: {epochs: '4', learning_rate: '1e-4', deepspeed: {stage: '1'}, baselines: 'off'}\n"
    )
    spec = load(file)
    assert (spec.name, spec.data.train) == ("2020-01-01", "12:30")
    assert (spec.data.columns.text, spec.data.columns.label) == ("no", "010")
    assert spec.data.validation == 0.2
    assert (spec.train.epochs, spec.train.learning_rate) == (4, 1e-4)
    assert isinstance(spec.train.deepspeed, DeepSpeedSpec)
    assert (spec.train.deepspeed.stage, spec.train.baselines) == (1, False)


def test_choices_are_read_as_their_keys_read_them() -> None:
    space = {
        "train.learning_rate": {"choice": ["1e-4", 1]},
        "train.epochs": {"choice": ["2", 3.0]},
        "train.unfreeze": {"choice": ["2", "all", ["a"]]},
        "train.baselines": {"choice": ["yes", "false"]},
        "train.warmup": {"uniform": ["0.1", "0.5"]},
        "seed": {"randint": ["1", "3"]},
    }
    tune = parse(tree({"tune.space": space})).tune
    assert tune is not None
    values = {path: domain.values for path, domain in tune.space.items()}
    assert values == {
        "train.learning_rate": (1e-4, 1.0),
        "train.epochs": (2, 3),
        "train.unfreeze": (2, "all", ["a"]),
        "train.baselines": (True, False),
        "train.warmup": (0.1, 0.5),
        "seed": (1, 3),
    }
    kinds = {path: {type(value) for value in found} for path, found in values.items()}
    assert kinds["train.learning_rate"] == {float}
    assert kinds["train.epochs"] == kinds["seed"] == {int}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)

NO_VALUES = {
    "nine levels of aliases": (BOMB, "100,000 values"),
    "a merge of merges": (BOMB.replace("[", "{<<: [").replace("]", "]}"), "values"),
    "an alias in its own anchor": ("name: &a [*a]\n", "alias within its anchor"),
    "nested deep": ("name: " + "[" * 9000, "levels deep"),
    "nested deep in blocks": ("".join(" " * n + "a:\n" for n in range(900)), "levels deep"),
    "a word for a number": ("name: !!int abc\n", "abc is no int"),
    "a word for a switch": ("name: !!bool abc\n", "abc is no bool"),
    "five thousand digits": (f"seed: {'9' * 5000}\n", "is no int"),
    "a type of Python's": ("name: !!python/name:os.system\n", "no place in a spec"),
    "bytes": ("name: !!binary aGk=\n", "no place in a spec"),
    "a list for a key": ("{[a]: b}\n", "unhashable"),
    "two documents": ("name: a\n---\nname: b\n", "single document"),
    "no such alias": ("name: *nowhere\n", "nowhere"),
    "megabytes": ("#" * (2 << 20), "larger than a spec"),
}


@pytest.mark.parametrize("content", NO_VALUES)
def test_what_is_no_spec_is_refused_in_one_short_line(file: Path, content: str) -> None:
    text, said = NO_VALUES[content]
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(file)
    line = str(caught.value)
    assert said in line
    assert len(line.splitlines()) == 1
    assert len(line) < 600 + len(str(file))


def test_a_byte_order_mark_is_no_part_of_a_spec(file: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_text(TEXT, encoding=encoding)
        assert load(file).name == "m"


@pytest.mark.parametrize(
    ("there", "asked", "fix"),
    [
        ("ftray.yaml", "ftray.yml", "Did you mean {}/ftray.yaml?"),
        ("movie.yaml", "movie", "Did you mean {}/movie.yaml?"),
        ("movie.yaml", "moive.yaml", "Did you mean {}/movie.yaml?"),
        ("movie.yaml", "other.yaml", "Name one, or write one with `ftray init`."),
        ("spec.csv", "spec.yaml", "Name one, or write one with `ftray init`."),
    ],
)
def test_a_spec_nearby_is_named_if_it_is_close(
    tmp_path: Path, there: str, asked: str, fix: str
) -> None:
    (tmp_path / there).write_text(TEXT)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / asked)
    assert caught.value.problems[0].fix == fix.format(tmp_path)


def test_merge_keys_of_yaml_work(file: Path) -> None:
    file.write_text(
        "name: m\nmodel: {name_or_path: x}\n"
        "data: {train: a.csv}\n"
        "train: {<<: {epochs: 1, batch_size: 8}, epochs: 5}\n"
    )
    spec = load(file)
    assert (spec.train.epochs, spec.train.batch_size) == (5, 8)
