"""The page at `/`, typed into and read in a browser."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftray.serve.http.auth import add_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.interface import Piece
from ftray.store.files.location import locate
from tests.helpers.external.browser import (
    CONTROL,
    DESKTOP,
    PATIENCE_S,
    PHONE,
    browsing,
    needs_chromium,
)
from tests.helpers.serving.fake_backend import FakeBackend, FakeGenerator
from tests.helpers.serving.fake_service import serving

pytestmark = needs_chromium
TEXT = "a wonderful film"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_text_is_typed_and_its_answer_read(size: tuple[int, int], tmp_path: Path) -> None:
    with serving() as url, browsing(url, size, tmp_path) as page:
        page.wait_for("name", "reviews")
        page.type(TEXT)  # the text field has the focus
        page.press("Enter", 13, CONTROL)
        answer = page.wait_for("result", "good")
        assert "75" in answer and "bad" in answer and "mixed" in answer
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
        assert not page.complaints


def test_what_a_classifier_has_no_use_for_is_not_shown(tmp_path: Path) -> None:
    with serving() as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("name", "reviews")
        for hidden in ("options", "system-row", "stop", "anew", "key-row", "choice-row"):
            assert page.value(f"document.getElementById('{hidden}').offsetParent === null"), hidden


def test_an_example_is_asked_and_the_same_by_a_program(tmp_path: Path) -> None:
    golden = [{"input": 'it\'s a "fine" film', "probabilities": [0.1, 0.8, 0.1]}]
    model = FakeBackend()
    model.info = model.info.model_validate({**model.info.model_dump(), "golden": golden})
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("examples", "fine")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert "version 3, answered in" in page.wait_for("result", "good")
        page.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
        shell, python = page.text_of("curl"), page.text_of("python")
        assert not page.complaints
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["outputs"][0][0]["label"] == "good"
        done = subprocess.run(
            [sys.executable, "-c", python], capture_output=True, text=True, check=True
        )
        assert "'label': 'good'" in done.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", "a wonderful film\n\nno\n"),
        ("rows.csv", 'id,text\n1,"a ""wonderful"", long film"\n2,no\n'),
        ("rows.jsonl", '{"text": "a wonderful film"}\n{"text": "no"}\n'),
    ],
)
def test_a_file_of_rows_is_answered(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content)
    with serving() as url, browsing(url, DESKTOP, tmp_path / "browser") as page:
        page.wait_for("name", "reviews")
        page.value("document.getElementById('file-row').open = true")
        page.choose("file", file)
        shown = page.wait_for("rows", "All 2 rows")
        assert "wonderful" in shown and "good" in shown and "bad" in shown
        wrong = tmp_path / f"wrong-{name}"
        wrong.write_text("id,words\n1,a\n" if name.endswith(".csv") else "")
        page.choose("file", wrong)
        page.wait_for("rows", "no column is called text|has no rows")
        assert not page.complaints


def test_a_page_that_needs_a_key_asks_for_it(tmp_path: Path) -> None:
    file = locate(str(tmp_path / "keys"))
    key = add_key(file, "me")
    with serving(keys=Keyring(file)) as url, browsing(url, PHONE, tmp_path / "browser") as page:
        page.wait_for("form", "[Kk]ey")
        assert page.value("document.activeElement.id") == "key"
        page.wait_for("result", "key")
        page.type("wrong")
        page.press("Enter", 13)
        page.wait_until(f"performance.getEntriesByName('{url}v1/models').length > 1")
        page.value("document.getElementById('key').select()")
        page.type(key)
        page.press("Enter", 13)
        page.wait_for("name", "reviews")
        page.wait_until("document.activeElement.id === 'input-text'")
        assert page.text_of("result") == "", "no complaint about the wrong key"
        page.type(TEXT)
        page.press("Enter", 13, CONTROL)
        page.wait_for("result", "good")
        assert "$FTRAY_KEY" in str(page.value("document.getElementById('curl').textContent"))


def test_a_page_behind_a_prefix_answers(tmp_path: Path) -> None:
    with serving(prefix="/models/one") as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("name", "reviews")
        page.type(TEXT)
        page.press("Enter", 13, CONTROL)
        page.wait_for("result", "good")
        assert f"{url}v1/models/reviews/predict" in str(
            page.value("document.getElementById('curl').textContent")
        )
        assert not page.complaints


def test_one_of_several_models_is_chosen(tmp_path: Path) -> None:
    models = FakeBackend("first"), FakeBackend("second", 7)
    with serving(*models) as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("name", "first")
        assert page.value("document.activeElement.id") == "input-text"
        page.value("document.getElementById('choice').focus()")
        page.press("ArrowDown", 40)
        page.wait_for("name", "second")
        assert "version 7" in page.text_of("about")
        page.value("document.getElementById('input-text').focus()")
        page.type(TEXT)
        page.press("Enter", 13, CONTROL)
        page.wait_for("result", "good")
        assert not page.complaints


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_answer_is_read_while_it_is_written(size: tuple[int, int], tmp_path: Path) -> None:
    rest = asyncio.Event()
    script = [Piece("Once upon", 2), rest, Piece(" a time – 日本語 🎬", 9), Piece("", 10, "length")]
    writer = FakeGenerator(script)
    with serving(writer, FakeBackend()) as url, browsing(url, size, tmp_path) as page:
        page.wait_for("name", "writer")
        assert page.text_of("ask") == "Generate"
        page.type("Tell me")
        page.press("Enter", 13, CONTROL)
        page.wait_for("result", "Once upon")
        assert "time" not in page.text_of("result")
        writer.loop.call_soon_threadsafe(rest.set)
        answer = page.wait_for("result", "10 tokens")
        assert "Once upon a time – 日本語 🎬" in answer and "cut off" in answer
        assert writer.asked[0][0] == "Tell me"
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
        page.value("document.getElementById('choice').value = 'reviews'")
        page.value("document.getElementById('choice').dispatchEvent(new Event('change'))")
        page.wait_for("ask", "Predict")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "good")
        assert not page.complaints


def test_a_chat_is_asked_and_stopped(tmp_path: Path) -> None:
    chat = FakeGenerator([Piece("Never", 1), asyncio.Event()])
    columns = {"data": {"columns": {"messages": "messages"}}}
    chat.info = chat.info.model_copy(update={"spec": columns})
    with serving(chat) as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("facts", "as a chat")
        page.type("When?")
        page.press("Enter", 13, CONTROL)
        page.wait_for("turns", "Never")
        page.value("document.getElementById('stop').click()")
        page.wait_for("result", "stopped after")
        assert chat.asked[0][0] == ({"role": "user", "content": "When?"},)
        page.value("document.getElementById('system').focus()")
        page.type("Be brief.")
        page.value("document.getElementById('input-text').focus()")
        page.type("Why?")
        page.press("Enter", 13, CONTROL)
        page.wait_for("turns", "Never[^N]*Never")
        said = [(turn["role"], turn["content"]) for turn in chat.asked[1][0]]
        assert said == [("system", "Be brief."), ("user", "When?"), ("assistant", "Never"),
                        ("user", "Why?")]  # fmt: skip
        page.value("document.getElementById('stop').click()")
        page.wait_for("result", "stopped after")
        page.value("document.getElementById('anew').click()")
        assert page.text_of("turns") == ""
        end = time.monotonic() + PATIENCE_S
        while chat.open:
            assert time.monotonic() < end, "nobody told the model"
            time.sleep(0.02)
        assert not page.complaints


def test_a_new_chat_knows_nothing_of_the_last(tmp_path: Path) -> None:
    chat = FakeGenerator([Piece("Never", 1), asyncio.Event()])
    columns = {"data": {"columns": {"messages": "messages"}}}
    chat.info = chat.info.model_copy(update={"spec": columns})
    with serving(chat) as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("facts", "as a chat")
        page.type("When?")
        page.press("Enter", 13, CONTROL)
        page.wait_for("turns", "Never")
        page.value("document.getElementById('anew').click()")  # while the answer is written
        page.wait_until("!document.getElementById('ask').disabled")
        assert page.text_of("turns") == page.text_of("result") == ""
        page.value("document.getElementById('input-text').focus()")
        page.type("Why?")
        page.press("Enter", 13, CONTROL)
        page.wait_for("turns", "Never")
        assert chat.asked[1][0] == ({"role": "user", "content": "Why?"},)
        page.value("document.getElementById('stop').click()")
        page.wait_for("result", "stopped after")
        assert not page.complaints
