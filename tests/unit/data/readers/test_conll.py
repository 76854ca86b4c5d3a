"""What CoNLL files give, and the errors for those that are none."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from ftray.data.readers.rows import RawRow
from ftray.data.sources import rows_of, source_of
from ftray.errors import DataError
from ftray.spec.schema import DataSpec
from ftray.tasks import task_info

TASK = task_info("token-classification")


def found(path: Path, **data: Any) -> list[RawRow]:
    spec = DataSpec.model_validate({"train": str(path), **data})
    return list(rows_of(source_of(str(path), "train", spec, TASK)))


def test_a_sentence_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes(
        b"-DOCSTART- -X- -X- O\r\n\r\nAnn NNP B-NP B-PER\r\nsings VBZ B-VP O\r\n\r\n\r\n"
        b"# IN B-PP O\r\n"
    )
    one, two = found(path)
    assert one.values["tokens"] == ["Ann", "sings"] and one.values["tags"] == ["B-PER", "O"]
    assert one.values["2"] == ["NNP", "VBZ"] and one.where.endswith("a.conll:3")
    assert two.values["tokens"] == ["#"] and two.where.endswith("a.conll:7")


def test_tabs_separate_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "a.bio.gz"
    path.write_bytes(gzip.compress("New York\tB-LOC\n\u00a0\tO\n".encode()))
    (row,) = found(path)
    assert row.values == {"tokens": ["New York", "\u00a0"], "tags": ["B-LOC", "O"]}


def test_the_spec_separates_and_names_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.iob"
    path.write_text("O;Ann b\nO;Bo\n")
    csv = {"separator": ";", "header": ["ner", "word"]}
    (row,) = found(path, csv=csv, columns={"tokens": "word", "tags": "ner"})
    assert row.values == {"ner": ["O", "O"], "word": ["Ann b", "Bo"]}


def test_conllu_has_names_comments_and_lines_that_are_no_words(tmp_path: Path) -> None:
    rest = "\t_\t_\t_\t_\t_\t_"
    path = tmp_path / "a.conllu"
    path.write_text(
        f"# text = Dámelo\n1-2\tDámelo\t_\t_{rest}\n1\tDá\tdar\tVERB{rest}\n2\tme\tyo\tPRON{rest}\n"
        f"2.1\te\te\tX{rest}\n\n# a comment alone\n\n1\tSí\tsí\tINTJ{rest}\n"
    )
    rows = found(path, columns={"tokens": "form", "tags": "upos"})
    assert [row.values["form"] for row in rows] == [["Dá", "me"], ["Sí"]]
    assert [row.values["upos"] for row in rows] == [["VERB", "PRON"], ["INTJ"]]


def test_a_line_with_other_fields_spoils_its_sentence_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Ann B-PER\nsings\n\nBo B-PER\n")
    wrong, right = found(path)
    assert wrong.fault is not None and wrong.fault.kind == "ragged"
    assert wrong.fault.detail == "line 2 has 1 fields instead of 2"
    assert right.fault is None and right.values["tokens"] == ["Bo"]


@pytest.mark.parametrize(
    ("content", "data", "problem"),
    [
        ("\n \n-DOCSTART- O\n\n", {}, "is empty"),
        ("Ann\nBo\n", {}, "which has: tokens"),
        ("Ann B-PER\n", {"columns": {"tags": "ner"}}, "which has: tokens, tags"),
    ],
)
def test_a_file_that_does_not_do_is_refused(
    content: str, data: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.conll"
    path.write_text(content)
    with pytest.raises(DataError, match=problem):
        found(path, **data)
