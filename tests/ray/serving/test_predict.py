"""`ftray predict` and `ftray evaluate` on real files and a real model."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from ftray.cli.main import app
from ftray.errors import DataError
from ftray.models.artifact.manifest import read_info
from ftray.models.artifact.named import find_named
from ftray.models.artifact.publish import write_info
from ftray.models.inference.predictor import Predictor
from ftray.offline import predict as batch
from ftray.offline.resume import COLUMNS, SCHEMA, Parts, run_key
from ftray.spec.sections.compute import PLAIN, Compute
from ftray.store.files.location import locate
from tests.helpers.models.tiny_model import tamper

ROWS = 200


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def result(*args: str) -> dict:
    done = run(*args, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [f"Scene {i}: " + "the hero walks " * (i * 7 % 13) for i in range(ROWS)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> str:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "note"])
        writer.writerows((i, text, f"n{i}") for i, text in enumerate(texts))
    return str(path)


@pytest.fixture
def predictor(model_folder: Path) -> Predictor:
    return Predictor(locate(str(model_folder)))


@pytest.mark.parametrize("backend", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_every_row_in_order_with_its_own_columns(
    backend: str,
    ray_cluster: None,
    model_folder: Path,
    predictor: Predictor,
    source: str,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "BLOCK_ROWS", 32)  # makes several blocks for each of the two actors
    out = tmp_path / "out.parquet"
    chosen = ("--probabilities", "--set", f"serve.backend={backend}")
    done = result("predict", str(model_folder), "--data", source, "--out", str(out), *chosen)
    assert done == {"model": "tiny", "version": None, "rows": ROWS, "out": str(out)}
    table = pq.read_table(out)
    assert table.column_names == ["id", "text", "note", "prediction", "score", "probabilities"]
    assert table["id"].to_pylist() == [str(i) for i in range(ROWS)]
    assert table["note"].to_pylist() == [f"n{i}" for i in range(ROWS)]
    expected = predictor.answers(texts)
    assert table["prediction"].to_pylist() == [answer["label"] for answer in expected]
    scores = [answer["score"] for answer in expected]
    assert table["score"].to_pylist() == pytest.approx(scores, abs=1e-5)
    for row in table.select(["prediction", "score", "probabilities"]).to_pylist():
        assert row["probabilities"][row["prediction"]] == pytest.approx(row["score"], abs=1e-6)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(
    ray_cluster: None,
    model_folder: Path,
    predictor: Predictor,
    source: str,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "BLOCK_ROWS", 32)
    out, add = tmp_path / "out.jsonl", Parts.add
    added: list[list[int]] = []

    def add_two(self: Parts, answers: pa.Table) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(answers["row"].to_pylist())
        add(self, answers)

    monkeypatch.setattr(Parts, "add", add_two)
    command = ("predict", str(model_folder), "--data", source, "--out", str(out))
    assert run(*command).exit_code == 130
    assert not out.exists() and (tmp_path / ".out.jsonl.parts").is_dir()
    (tmp_path / ".out.jsonl.parts" / "torn.arrow").write_bytes(b"ARROW1")
    before = {row for rows in added for row in rows}

    def add_rest(self: Parts, answers: pa.Table) -> None:
        assert not before & set(answers["row"].to_pylist()), "answered already"
        add(self, answers)

    monkeypatch.setattr(Parts, "add", add_rest)
    assert result(*command)["rows"] == ROWS
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(i) for i in range(ROWS)]
    expected = predictor.answers(texts)
    assert [row["prediction"] for row in rows] == [answer["label"] for answer in expected]
    assert list(tmp_path.iterdir()) == [out], "nothing is left beside it"


def test_parts_of_another_run_are_not_used(model_folder: Path, tmp_path: Path) -> None:
    info, out = read_info(locate(str(model_folder))), locate(str(tmp_path / "out.csv"))
    keys = [
        run_key(info, PLAIN, ["a", "bc"]),
        run_key(info, PLAIN, ["ab", "c"]),
        run_key(info, Compute("onnx"), ["a", "bc"]),
        run_key(info.model_copy(update={"run": "other"}), PLAIN, ["a", "bc"]),
        run_key(info, PLAIN, ["a", "bc"], probabilities=True),
    ]
    assert len(set(keys)) == 5
    told = json.dumps({"prediction": "good", "score": 0.5})
    row = {"row": 1, COLUMNS: told, "probabilities": [0.5, 0.5], "cut": False}
    answers = pa.Table.from_pylist([row], SCHEMA)
    Parts(out, keys[0]).add(answers)
    assert Parts(out, keys[0]).read().to_pylist() == answers.to_pylist()
    assert Parts(out, keys[1]).read().num_rows == 0
    Parts(out, keys[1]).add(answers)
    assert Parts(out, keys[0]).read().num_rows == 0, "they made room"


@pytest.mark.slow
def test_a_model_that_answers_otherwise_is_refused(
    ray_cluster: None, model_folder: Path, tmp_path: Path
) -> None:
    changed, data, out = tmp_path / "changed", tmp_path / "rows.csv", tmp_path / "out.jsonl"
    shutil.copytree(model_folder, changed)
    tamper(changed)
    data.write_text("text\na\n")
    done = run("predict", str(changed), "--data", str(data), "--out", str(out))
    assert done.exit_code == 2
    assert done.stderr.startswith("golden answers of tiny = A wonderful film.")
    assert sorted(tmp_path.iterdir()) == [changed, data]


def test_wrong_input_is_said_before_anything_starts(model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "a", "score": 1}\n')
    out = str(tmp_path / "out.csv")
    for changed, said in (
        ({"--out": str(tmp_path / "out.xlsx")}, "no known format"),
        ({"--data": str(tmp_path / "none.csv")}, "no such file"),
        ({"--text": "body"}, "no such column"),
        ({}, "has a column score already"),
    ):
        options = {"--data": str(data), "--out": out, **changed}
        given = [part for option in options.items() for part in option]
        done = run("predict", str(model_folder), *given)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == [data]


def test_rows_that_cannot_be_read_are_left_out_only_where_the_spec_says_so(
    model_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "a"}\n{"text": null}\n{"text": "b", "more": 1}\n')
    model = find_named(str(model_folder), None)
    with pytest.raises(DataError, match="1 row without text"):
        batch.read_rows(model, str(data), {}, None, ())
    model.info.spec["data"]["on_bad_row"] = "skip"
    rows = batch.read_rows(model, str(data), {}, None, ())
    assert (rows.values, rows.questions) == ([{"text": "a"}, {"text": "b", "more": 1}], ["a", "b"])
    (left,) = rows.left_out
    assert left["kind"] == "empty_text"


@pytest.mark.parametrize("skips", [pytest.param(False, marks=pytest.mark.slow), True])
def test_rows_that_give_no_token_are_left_out_only_where_the_spec_says_so(
    ray_cluster: None, model_folder: Path, predictor: Predictor, tmp_path: Path, skips: bool
) -> None:
    own, data, out = tmp_path / "model", tmp_path / "rows.csv", tmp_path / "out.jsonl"
    shutil.copytree(model_folder, own)
    info = read_info(locate(str(own)))
    info.spec["data"]["on_bad_row"] = "skip" if skips else "fail"
    write_info(own, info)
    data.write_text("id,text\n1,a fine film\n2,\ue000\n3,dull\n4,\n5,\ue001 \ue002\n")
    if not skips:
        data.write_text("id,text\n1,a fine film\n2,\ue000\n")
    done = run("predict", str(own), "--data", str(data), "--out", str(out), "--json")
    if not skips:
        assert done.exit_code == 2
        said = f"1 of 2 rows cannot be used: 1 row that gives the model no token ({data}:3)"
        assert said in done.stderr and not out.exists()
        return
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 2, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    labels = [answer["label"] for answer in predictor.answers(["a fine film", "dull"])]
    assert [(row["id"], row["prediction"]) for row in rows] == list(
        zip(["1", "3"], labels, strict=True)
    )
    left = (tmp_path / "out.jsonl.quarantine.jsonl").read_text().splitlines()
    told = [(row["kind"], row["values"]["id"]) for row in map(json.loads, left)]
    assert told == [("empty_text", "4"), ("no_tokens", "2"), ("no_tokens", "5")]
    assert "3 rows" in done.stderr


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_keep_their_other_columns(model_folder: Path, tmp_path: Path, suffix: str) -> None:
    table = pa.table({"id": [7, 8], "text": ["a", "b"], "when": [date(2026, 1, 2), None]})
    data = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, data)
    else:
        with pa.ipc.new_file(str(data), table.schema) as writer:
            writer.write_table(table)
    model = find_named(str(model_folder), None)
    assert batch.read_rows(model, str(data), {}, None, ()).values == table.to_pylist()


def test_evaluate_another_source(
    model_folder: Path, predictor: Predictor, texts: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    few = texts[:60]
    labels = ["good" if i % 3 else "bad" for i in range(len(few))]
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("body", "label"), *zip(few, labels, strict=True)])
    done = result("evaluate", str(model_folder), "--data", str(data), "--text", "body")
    metrics, of = done.pop("metrics"), done.pop("labels")
    assert done == {"model": "tiny", "version": None, "data": str(data), "rows": 60}
    answers = [answer["label"] for answer in predictor.answers(few)]
    right = sum(a == b for a, b in zip(answers, labels, strict=True))
    assert metrics["accuracy"] == pytest.approx(right / 60)
    assert set(metrics) == {"accuracy", "f1_macro", "loss", "confused"}
    assert {label["label"]: label["rows"] for label in of} == {"bad": 20, "good": 40, "mixed": 0}
    wrong = tmp_path / "wrong.jsonl"
    shown = run("evaluate", str(model_folder), "--data", str(data), "--text", "body",
                "--out", str(wrong))  # fmt: skip
    assert shown.exit_code == 0, shown.stderr
    assert "recall" in shown.stdout and "-> good" in shown.stdout
    rows = [json.loads(line) for line in wrong.read_text().splitlines()]
    expected = [(t, lab, a) for t, lab, a in zip(few, labels, answers, strict=True) if lab != a]
    assert {(row["text"], row["label"], row["prediction"]) for row in rows} == set(expected)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_evaluate_the_models_own_test_split(model_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "model"
    shutil.copytree(model_folder, own)
    data = tmp_path / "rows.csv"
    rows = [(f"text {i}", "good" if i % 2 else "bad") for i in range(40)]
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    info = read_info(locate(str(own)))
    info.spec["data"].update(train=str(data), test=0.25)
    write_info(own, info)
    done = result("evaluate", str(own))
    assert (done["data"], done["rows"]) == ("test", 10)


def test_evaluate_refuses_labels_that_the_model_does_not_know(
    model_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("text,label\na,good\nb,unheard\n")
    done = run("evaluate", str(model_folder), "--data", str(data))
    assert done.exit_code == 2
    assert "labels that tiny does not know: 'unheard'" in done.stderr
