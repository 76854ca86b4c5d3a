"""Whatever a spec, an override or a model's file holds: it loads, or one FtrayError says why in
short lines. The draws are the same each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ftray.errors import FtrayError
from ftray.models.pretrained import check_pretrained, load_tokenizer
from ftray.spec.load import dump, load, parse, serving
from ftray.spec.paths import paths
from ftray.spec.schema import ModelSpec, Spec
from ftray.spec.yaml_text import YamlFault, parse_value, parse_yaml
from tests.helpers.models.tiny_generator import make_tokenizer

SEEDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SPEC = "name: m\nmodel: {name_or_path: x}\ndata: {train: a.csv}\n"
KEYS = sorted(paths(Spec))

marks = st.sampled_from(list("[]{}:,#&*!|>'\"%@`?-~=<.\n \t0159eExoyn\x00\x1b\ufeff\u2028é"))
texts = st.one_of(st.text(marks, max_size=40), st.text(max_size=40))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    texts,
    st.sampled_from(["1e-4", "32", "010", "yes", "auto", "all", "head", "(", "x" * 5000]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(texts, st.sampled_from(KEYS)), inner, max_size=3),
    ),
    max_leaves=6,
)


def is_short(error: FtrayError) -> bool:
    lines = str(error).split("\n")
    return len(lines) <= 21 and all(0 < len(line) < 1500 for line in lines)


@SEEDED
@given(st.text(marks, max_size=80))
@example("a: !!timestamp x")
@example("? [")
def test_any_text_is_yaml_or_a_fault(text: str) -> None:
    try:
        value = parse_yaml(text)
    except YamlFault as fault:
        assert len(str(fault).splitlines()) == 1
    else:
        json.dumps(value)  # of plain values alone


@SEEDED
@given(st.binary(max_size=60))
def test_any_file_is_a_spec_or_a_fault(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(SPEC.encode() + content)
    try:
        load(file)
    except FtrayError as error:
        assert is_short(error)


@SEEDED
@given(st.sampled_from(KEYS), values)
def test_any_value_of_any_key_is_taken_or_a_fault(key: str, value: Any) -> None:
    tree: dict[str, Any] = yaml.safe_load(SPEC)
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            return
    node[last] = value
    try:
        spec = parse(tree)
    except FtrayError as error:
        assert is_short(error)
    else:
        assert parse(yaml.safe_load(dump(spec))) == spec


@SEEDED
@given(st.one_of(st.sampled_from(KEYS), st.text(marks, max_size=20)), texts)
def test_any_override_is_taken_or_a_fault(tmp_path: Path, key: str, value: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    said: list[str] = []
    for read in (lambda item: load(file, [item], said.append), lambda item: serving([item])):
        try:
            read(f"{key}={value}")
        except FtrayError as error:
            assert is_short(error)
    assert all(len(line) < 500 and "\n" not in line for line in said)


@SEEDED
@given(texts)
def test_a_value_is_what_was_typed_unless_it_is_plain_yaml(text: str) -> None:
    value = parse_value(text)
    assert not isinstance(value, str) or value == text


@SEEDED
@given(values)
def test_any_value_of_the_space_is_taken_or_a_fault(value: Any) -> None:
    tree = {**yaml.safe_load(SPEC), "tune": {"space": {"train.unfreeze": {"choice": [value]}}}}
    try:
        parse(tree)
    except FtrayError as error:
        assert is_short(error)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FIELDS = (
    "model_type", "tokenizer_class", "added_tokens_decoder", "pad_token", "model_max_length",
    "hidden_size", "model", "pre_tokenizer", "added_tokens", "normalizer", "auto_map", "dtype",
)  # fmt: skip


@settings(SEEDED, max_examples=60)
@given(st.sampled_from(FILES), st.one_of(values, st.sampled_from(FIELDS)), values)
def test_any_file_of_a_model_is_taken_or_a_fault(
    tokenizer: Path, tmp_path: Path, name: str, field: Any, value: Any
) -> None:
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tokenizer, folder)
    file = folder / name
    known = json.loads(file.read_text()) if file.exists() else {"model_type": "llama"}
    changed = {**known, field: value} if field in FIELDS else value
    file.write_text(json.dumps(changed, default=str), errors="surrogatepass", encoding="utf-8")
    for read in (
        lambda: check_pretrained(ModelSpec(name_or_path=str(folder)), 32),
        lambda: load_tokenizer(folder),
    ):
        try:
            read()
        except FtrayError as error:
            assert is_short(error)
