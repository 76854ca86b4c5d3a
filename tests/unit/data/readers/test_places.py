"""Where rows come from: files, patterns, folders, packages, the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ftray.data.readers import hub
from ftray.data.sources import rows_of, source_of
from ftray.errors import DataError
from ftray.spec.schema import DataSpec
from ftray.tasks import task_info


def texts(url, role="train", **data):
    spec = DataSpec(train=url, **data)
    return [
        (row.values["text"], row.values["label"]) for row in rows_of(source_of(url, role, spec))
    ]


def refusal(url):
    with pytest.raises(DataError) as caught:
        texts(str(url))
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("data.train", str(url))
    return problem


@pytest.fixture
def labelled(tmp_path):
    """A folder with two labels, hidden files and a text in a deeper folder."""
    for name in ("neg/2.txt", "neg/1.txt", "pos/deep/3", "pos/.hidden", "_notes/4.txt"):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {path.name}\n")
    (tmp_path / "texts" / "README.md").write_text("not a row")
    return tmp_path / "texts"


def test_a_folder_per_label(labelled):
    found = [("text 1.txt\n", "neg"), ("text 2.txt\n", "neg"), ("text 3\n", "pos")]
    assert texts(str(labelled)) == found
    (first, *_) = rows_of(source_of(str(labelled), "train", DataSpec(train="x")))
    assert first.where == f"{labelled}/neg/1.txt:1"


def test_a_folder_per_label_has_the_column_names_of_the_spec(labelled):
    spec = DataSpec(train="x", columns={"text": "body", "label": "topic"})
    assert next(rows_of(source_of(str(labelled), "train", spec))).values["topic"] == "neg"


def test_a_folder_of_data_files_is_read_by_name(tmp_path):
    for name, text in (("b.csv", "two"), ("a.csv", "one")):
        (tmp_path / name).write_text(f"text,label\n{text},x\n")
    (tmp_path / "_SUCCESS").touch()
    assert texts(str(tmp_path)) == [("one", "x"), ("two", "x")]
    assert texts(f"{tmp_path}/*.csv") == texts(str(tmp_path))


@pytest.mark.parametrize(
    "names, problem",
    [
        (["a.csv", "b.jsonl"], "several formats (.csv, .jsonl)"),
        (["x/a.csv", "y/b.csv"], "data files in sub-folders"),
        (["a.csv", "neg/1.txt"], "both data files and sub-folders"),
        (["a.txt"], "no data files"),
        ([], "no data files"),
    ],
)
def test_a_folder_that_could_mean_several_things_is_refused(tmp_path, names, problem):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text,label\none,a\n")
    assert problem in refusal(tmp_path).problem


def test_a_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "reviews.jsonl").touch()
    problem = refusal(tmp_path / "review.jsonl")
    assert "no such file" in problem.problem
    assert problem.fix == "Did you mean reviews.jsonl?"


def test_a_file_that_is_hardly_like_it_is_not_named(tmp_path):
    (tmp_path / "run.sh").touch()
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "films.csv").touch()
    assert "Check the path" in refusal(tmp_path / "run").fix
    assert refusal(tmp_path / "row" / "film.csv").fix == f"Did you mean {tmp_path}/rows/films.csv?"


def test_a_pattern_that_matches_nothing_or_a_folder_is_refused(tmp_path):
    assert "matches no file" in refusal(f"{tmp_path}/*.csv").problem
    (tmp_path / "a.csv").write_text("text,label\none,a\n")
    (tmp_path / "folder").mkdir()
    assert "folder is a folder" in refusal(f"{tmp_path}/*").problem


def test_a_path_relative_to_the_working_directory_is_shown_so(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text,label\none,a\n")
    monkeypatch.chdir(tmp_path)
    (row,) = rows_of(source_of("a.csv", "train", DataSpec(train="a.csv")))
    assert row.where == "a.csv:2"


def test_a_working_directory_with_brackets(tmp_path, monkeypatch):
    folder = tmp_path / "project [old] *"
    (folder / "texts" / "neg").mkdir(parents=True)
    (folder / "texts" / "neg" / "[1].txt").write_text("one")
    for name in ("a-1.csv", "a-2.csv"):
        (folder / name).write_text(f"text,label\n{name},x\n")
    monkeypatch.chdir(folder)
    assert texts("a-1.csv") == [("a-1.csv", "x")]
    assert texts("a-*.csv") == texts("a-?.csv") == [("a-1.csv", "x"), ("a-2.csv", "x")]
    assert texts("texts") == [("one", "neg")]
    assert "matches no file" in refusal("b-*.csv").problem


def test_a_question_mark_is_no_option_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "part1").mkdir()
    (tmp_path / "data" / "part1" / "a.csv").write_text("text,label\none,x\n")
    (tmp_path / "data" / "really?x=1").mkdir()
    (tmp_path / "data" / "really?x=1" / "a.csv").write_text("text,label\ntwo,x\n")
    monkeypatch.chdir(tmp_path)
    assert texts("data/part?") == [("one", "x")]
    assert texts("data/really?x=1") == [("two", "x")]


def test_two_stars_do_not_follow_a_link_that_leads_back(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "rows.csv").write_text("text,label\none,x\n")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    assert texts(f"{tmp_path}/**/*.csv") == [("one", "x")]


def test_a_file_inside_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.csv").write_text("text,label\none,a\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert texts("package://some_package/a.csv") == [("one", "a")]
    assert "some_package_2" in refusal("package://some_package_2/a.csv").problem


def test_an_unknown_scheme_is_refused():
    assert "cannot be opened" in refusal("ftp://host/a.csv").problem


@pytest.mark.parametrize(
    "url, is_id",
    [
        ("stanfordnlp/imdb", True),
        ("stanfordnlp/imdb?split=train", True),
        ("data/reviews.csv", False),
        ("data/reviews.csv.gz", False),
        ("./reviews", False),
        ("/data/reviews", False),
        ("a/b/c", False),
        ("s3://bucket/key", False),
        ("here/folder", False),
    ],
)
def test_what_reads_as_a_hub_id(tmp_path, monkeypatch, url, is_id):
    (tmp_path / "here" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_id(url) is is_id


@pytest.fixture
def loadable(tmp_path, monkeypatch):
    """A folder that `datasets` loads like a repository of the Hub: splits, labels as numbers."""
    folder = tmp_path / "repository"
    folder.mkdir()
    head = {
        "dataset_info": {
            "features": [
                {"name": "text", "dtype": "string"},
                {"name": "label", "dtype": {"class_label": {"names": {0: "neg", 1: "pos"}}}},
            ]
        },
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"{split}.jsonl"} for split in ("train", "test")
                ],
            }
        ],
    }
    (folder / "README.md").write_text(f"---\n{json.dumps(head)}\n---\n")
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i}", "label": i} for i in (1, 0, -1)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


@pytest.mark.parametrize("options, split", [("", "test"), ("?split=train", "train")])
def test_hub_rows_have_named_labels_and_the_split_of_their_role(loadable, options, split):
    spec = DataSpec(train="x")
    source = replace(source_of("x", "test", spec), url=f"{loadable}{options}")
    rows = [row for batch in hub.read_hub(source) for row in batch.each()]
    assert [row.values for row in rows] == [
        {"text": f"{split} 1", "label": "pos"},
        {"text": f"{split} 0", "label": "neg"},
        {"text": f"{split} -1", "label": None},
    ]
    assert rows[0].where == f"{loadable}/{split}:1"


def test_hub_lists_of_labels_are_named(tmp_path, monkeypatch):
    names = {"class_label": {"names": {0: "O", 1: "B-PER"}}}
    columns = [{"name": "tokens", "list": "string"}, {"name": "tags", "list": names}]
    head = {"dataset_info": {"features": columns}}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(head)}\n---\n")
    (tmp_path / "train.jsonl").write_text('{"tokens": ["Ann", "sings"], "tags": [1, 0]}\n')
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = source_of("x", "train", DataSpec(train="x"), task_info("token-classification"))
    (batch,) = hub.read_hub(replace(source, url=str(tmp_path)))
    assert batch.column("tokens")[0] == ["Ann", "sings"]
    assert batch.column("tags")[0] == ["B-PER", "O"]


@pytest.mark.parametrize(
    "options, problem",
    [("?split=dev", "cannot be loaded"), ("?config=x", "cannot be loaded"), ("?part=1", "unknown")],
)
def test_a_hub_split_config_or_option_that_is_not_there(loadable, options, problem):
    source = replace(source_of("x", "train", DataSpec(train="x")), url=f"{loadable}{options}")
    with pytest.raises(DataError, match=problem):
        list(hub.read_hub(source))


def test_a_hub_id_without_a_hub_says_so_at_once():
    script = (
        "from ftray.data.sources import rows_of, source_of\n"
        "from ftray.spec.schema import DataSpec\n"
        "list(rows_of(source_of('some-owner/no-such-set', 'train', DataSpec(train='x'))))"
    )
    # A port where nothing listens: the machine may well be online.
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    env.pop("HF_HUB_OFFLINE", None)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False
    )
    assert time.perf_counter() - start < 90
    assert "DataError: data.train = some-owner/no-such-set" in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr and "local path" in done.stderr
