"""CSV as people have it: quotation marks of all kinds, other separators, escapes. No row may be
lost or merged without a word."""

from __future__ import annotations

import csv
import io
import random

import pytest

from ftray.data.sources import rows_of, source_of
from ftray.errors import DataError, SpecError
from ftray.spec.load import parse
from ftray.spec.schema import DataSpec


@pytest.fixture
def found(tmp_path):
    """Rows (text, label, or the fault's kind) and notes of a file with that content."""

    def read(content, name="a.csv", **keys):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        source = source_of(str(tmp_path / name), "train", DataSpec(train="x", csv=keys))
        rows = [
            row.fault.kind if row.fault else (row.values["text"], row.values["label"])
            for row in rows_of(source)
        ]
        return rows, [note.removeprefix(f"{tmp_path / name}: ") for note in source.notes]

    return read


def lines(*rows, head="text,label"):
    return "\n".join([head, *rows]) + "\n"


LONE = ['"two{}b', "three{}a", "four{}b", 'five"{}a']


@pytest.mark.parametrize("mark, name", [(",", "a.csv"), ("\t", "a.tsv"), (";", "a.csv")])
@pytest.mark.parametrize("between", [0, 40])
def test_two_lone_quotation_marks_merge_no_lines(found, mark, name, between):
    middle = [f"row {i}{{}}a" for i in range(between)]
    rows = ["one{}a", *LONE[:2], *middle, *LONE[2:], "six{}b"]
    content = lines(*(row.format(mark) for row in rows), head=f"text{mark}label")
    read, notes = found(content, name)
    assert len(read) == len(rows)
    assert read[1] == ('"two', "b") and read[-2] == ('five"', "a")
    told = "1 quotation mark that opens a field and closes none read as characters (line 3)"
    assert notes[-1] == told


def test_two_lone_marks_in_a_file_with_quoted_fields(found):
    quoted = ['"yes, it is",a', '"say ""no""",b'] * 5
    rows, notes = found(lines(*quoted, *(row.format(",") for row in LONE), *quoted))
    assert len(rows) == 24 and rows[0] == ("yes, it is", "a") and rows[1] == ('say "no"', "b")
    assert rows[10] == ('"two', "b")
    assert notes == [
        "1 quotation mark that opens a field and closes none read as characters (line 12)"
    ]


def test_a_field_over_several_lines_is_one_and_told(found):
    content = lines('"one, two', "", 'three, ""four""",a', "plain,b", '"x', 'y, z, u",a')
    rows, notes = found(content)
    assert rows == [('one, two\n\nthree, "four"', "a"), ("plain", "b"), ("x\ny, z, u", "a")]
    assert notes == ["2 records over several lines each (lines 2, 6)"]


def test_a_field_over_two_lines_that_would_each_make_a_row(found):
    # With other fields in quotation marks it is a field, without any it is chance.
    pair = ('"Hello, friend', 'how are you",a')
    assert found(lines(*pair, '"good, bye",b'))[0] == [
        ("Hello, friend\nhow are you", "a"),
        ("good, bye", "b"),
    ]
    assert len(found(lines(*pair, "good bye,b"))[0]) == 3


def test_an_open_quotation_mark_swallows_nothing(found):
    rows, _ = found(lines("one,a", '"two,b', "three,a", '"five, too",a', '"six'))
    assert rows == [("one", "a"), ('"two', "b"), ("three", "a"), ("five, too", "a"), "ragged"]


@pytest.mark.parametrize(
    "field, text",
    [
        ('a 5" screen', 'a 5" screen'),
        ('"Great" he said', '"Great" he said'),
        ('he said "great"', 'he said "great"'),
        ('"a" and "b"', '"a" and "b"'),
        ('""', ""),
        ('""""', '"'),
        ('"all of it"', "all of it"),
        (' "with spaces" ', "with spaces"),
        (' ""', ""),
        (' ""one""', ' ""one""'),
        ('"', '"'),
        ('"unclosed ""', '"unclosed ""'),
    ],
)
def test_a_mark_that_encloses_no_field_is_a_character(found, field, text):
    rows, _ = found(lines('"quoted, indeed",b', f"{field},a", "last,b"))
    assert rows == [("quoted, indeed", "b"), (text, "a"), ("last", "b")]


def test_marks_in_a_tsv_that_encloses_nothing_stay(found):
    rows = ['"Great" he said\ta', '"Great"\tb', '5" wide\ta', "plain\tb"]
    read, notes = found("\n".join(["text\tlabel", *rows]), "a.tsv")
    assert read[1] == ('"Great"', "b")
    assert notes == ["quotation marks are read as characters: they enclose no fields"]


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_separators_are_found_by_the_header(found, separator, name):
    content = lines(f'"a; b, c | d\te"{separator}x', head=f"id{separator}text{separator}label")
    content = content.replace('"a;', f'1{separator}"a;')
    rows, notes = found(content, name)
    assert rows == [("a; b, c | d\te", "x")]
    default = "\t" if name == "a.tsv" else ","
    told = [f"fields are separated by {separator!r}"] if separator != default else []
    assert notes == told


def test_what_excel_writes_above_the_header(found):
    assert found("sep=;\r\ntext;label\r\none;a\r\n")[0] == [("one", "a")]
    assert found(b"\xef\xbb\xbfsep=^\ntext^label\none^a\n")[0] == [("one", "a")]


def test_columns_that_are_not_there_are_told_by_their_own_separator(found):
    with pytest.raises(DataError, match="which has: title, sentiment"):
        found("title;sentiment\none, two;a\n")


def test_a_backslash_before_quotation_marks_is_found(found):
    row = '"he said \\"hi, you\\", ok",a'
    rows, notes = found(lines(row, '"plain, quoted",b'))
    assert rows == [('he said "hi, you", ok', "a"), ("plain, quoted", "b")]
    assert notes == ["quotation marks are escaped by \\"]
    # At the end of a path it escapes nothing.
    rows, notes = found(lines('"C:\\dir, new\\",a', '"plain, quoted",b'))
    assert rows[0] == ("C:\\dir, new\\", "a") and not notes


def test_keys_say_what_is_not_to_be_found_out(found):
    content = "one$'it''s $5'\ntwo$b\n"
    assert found(content, separator="$", quote="'", header=["label", "text"])[0] == [
        ("it's $5", "one"),
        ("b", "two"),
    ]
    assert found(lines('"a",b'), quote="off")[0] == [('"a"', "b")]
    assert found(lines('"a, b",c'), quote="off")[0] == ["ragged"]
    assert found("text\tlabel\na, b\tc\n", separator="tab")[0] == [("a, b", "c")]
    assert found(lines("a^, ^b^^,c"), escape="^")[0] == [("a, ^b^", "c")]
    assert found(lines("a\\, b,c"), escape="off")[0] == ["ragged"]


@pytest.mark.parametrize(
    "key, value", [("separator", ", "), ("quote", ""), ("escape", "\n"), ("header", [])]
)
def test_keys_that_are_no_characters_are_refused(key, value):
    data = {"train": "a.csv", "csv": {key: value}}
    with pytest.raises(SpecError, match=f"data.csv.{key}"):
        parse({"name": "x", "model": {"name_or_path": "m"}, "data": data})


def test_one_character_cannot_be_two_things():
    data = {"train": "a.csv", "csv": {"quote": "'", "escape": "'"}}
    with pytest.raises(SpecError, match="are not three characters"):
        parse({"name": "x", "model": {"name_or_path": "m"}, "data": data})


def test_yaml_reads_off_as_false():
    assert DataSpec(train="a.csv", csv={"quote": False, "escape": False}).csv.quote == "off"


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_what_a_csv_writer_writes_is_read_as_it_was(found, seed, delimiter):
    """Texts of all kinds, as Python's csv module writes them, with enough plain ones beside."""
    draw = random.Random(seed)
    parts = ["word", " ", ", ", "; ", "\t", "\n", "\r\n", '"', '""', "'", "\\", "é", "|"]
    texts = ["".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(60)]
    texts = [text for text in texts if text.strip()] + ["well, then", 'a "b"', "two\n\n, lines"] * 5
    out = io.StringIO(newline="")
    quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
    writer.writerows([("text", "label"), *((text, "ab"[i % 2]) for i, text in enumerate(texts))])
    rows, _ = found(out.getvalue())
    assert rows == [(text, "ab"[i % 2]) for i, text in enumerate(texts)]


@pytest.mark.parametrize("seed", range(20))
def test_every_line_of_a_file_without_quoting_is_a_row(found, seed):
    """Tweets in a TSV: quotation marks anywhere, each line a row."""
    draw = random.Random(seed)
    parts = ["word", " ", '"', '"quoted"', ", ", "'", "so it goes"]
    texts = ["x" + "".join(draw.choices(parts, k=8)) for _ in range(200)]
    texts = [draw.choice(["", "", '"']) + text for text in texts]
    content = "".join(f"{text}\t{'ab'[i % 2]}\n" for i, text in enumerate(texts))
    rows, _ = found("text\tlabel\n" + content, "a.tsv")
    assert [row[0] for row in rows] == texts
