"""What a mistyped word or path was likely meant to be, and what is no id of the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftray.data.readers.hub import is_hub_id
from ftray.errors import ModelError
from ftray.models.pretrained import check_pretrained
from ftray.near import looks_local, nearest, nearest_path
from ftray.spec.schema import ModelSpec


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "reviews").mkdir(parents=True)
    (tmp_path / "data" / "films.csv").write_text("")
    (tmp_path / "data" / "o.json").write_text("")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("revews", "reviews"), ("Reviews", "reviews"), ("films", None), ("", None)],
)
def test_a_word_is_named_only_if_it_is_close(word: str, meant: str | None) -> None:
    assert nearest(word, ["reviews", "model.safetensors"]) == meant


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("dat/reviws", "data/reviews"),
        ("data/film.csv", "data/films.csv"),
        ("./data/film.csv", "data/films.csv"),
        ("data/novels.csv", None),
        ("data/nope.jsonl", None),
        ("nothing/reviews", None),
        ("x" * 5000, None),
        ("a\0b", None),
        ("~nobody-of-that-name/x", None),
    ],
)
def test_a_path_is_named_part_by_part(path: str, meant: str | None) -> None:
    assert nearest_path(path) == meant


LOCAL = ("./nothing", "../x", "~/x", "/x/y", "a/b/c", "dat/reviws", "data/novels", "a\\b")
OF_THE_HUB = ("distilbert/distilbert-base-uncased", "org-1/data_set.v2")


@pytest.mark.parametrize("path", LOCAL)
def test_a_folder_that_is_not_there_is_no_id_of_the_hub(path: str) -> None:
    assert looks_local(path)
    assert not is_hub_id(path)
    with pytest.raises(ModelError, match="no such folder"):
        check_pretrained(ModelSpec(name_or_path=path), 8)


@pytest.mark.parametrize("name", OF_THE_HUB)
def test_an_id_of_the_hub_is_one(name: str) -> None:
    assert is_hub_id(name)
    check_pretrained(ModelSpec(name_or_path=name), 8)


@pytest.mark.parametrize("name", ["a--b/c", "a..b", "-x/y", "x/-y-", "über/modell"])
def test_what_the_hub_takes_for_no_id_is_no_folder(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        check_pretrained(ModelSpec(name_or_path=name), 8)


def test_the_model_nearby_is_named() -> None:
    with pytest.raises(ModelError) as caught:
        check_pretrained(ModelSpec(name_or_path="model/tinny"), 8)
    assert caught.value.problems[0].fix == "Did you mean models/tiny?"
