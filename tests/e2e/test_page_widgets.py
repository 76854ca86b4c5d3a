"""The widgets of the page at `/` in a browser: each kind of an input and of an answer."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ftray.tasks.tabular.columns import Column
from tests.helpers.external.browser import CONTROL, DESKTOP, PHONE, Page, browsing, needs_chromium
from tests.helpers.serving.fake_backend import FakeBackend
from tests.helpers.serving.fake_service import FakeTask, serving

pytestmark = needs_chromium
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
MARKUP = "<img src=x onerror='document.title = 1'><b>bold</b>"
CONTEXT = f"Ann 🎬 lives in Oslo, {MARKUP} and Bo in Rome."


def image(width: int, height: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(content, kind)
    return content.getvalue()


def digits(*examples: bytes) -> FakeTask:
    """A model that reads an image."""
    scores = [{"label": label, "score": score} for label, score in (("seven", 0.9), ("one", 0.1))]
    golden = [base64.b64encode(content).decode() for content in examples]
    labels = ("one", "seven")
    return FakeTask("image-classification", scores, {"image": "image"}, golden, labels=labels)


def answers(output: Any, *examples: Any) -> FakeTask:
    """A model that reads a question and a context."""
    columns = {"question": "q", "context": "c", "answers": "a"}
    return FakeTask("question-answering", output, columns, examples)


def part(text: str) -> dict[str, Any]:
    return {"score": 0.875, **place_of(text), "answer": text}


def place_of(text: str) -> dict[str, int]:
    start = CONTEXT.index(text)
    return {"start": start, "end": start + len(text)}


def focus(page: Page, element: str) -> None:
    page.value(f"document.getElementById('{element}').focus()")


def fits(page: Page) -> bool:
    return bool(page.value("document.documentElement.scrollWidth <= window.innerWidth"))


@SIZES
@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_an_image_is_sent_itself(way: str, size: tuple[int, int], tmp_path: Path) -> None:
    content = image(900, 40, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(content)
    model = digits()
    with serving(model) as url, browsing(url, size, tmp_path / "browser") as page:
        assert page.wait_for("inputs", "drop an image").startswith("Image")
        page.wait_until("document.activeElement.id === 'input-image'")
        assert page.value("document.getElementById('input-image').labels[0].innerText") == "Image"
        if way == "chosen":
            page.choose("input-image", tmp_path / "photo.jpg")
        else:
            page.drop("#inputs .drop", [tmp_path / "photo.jpg"])
        page.wait_for("inputs", f"900 × 40 pixels, {len(content) / 1000:.1f} kB")
        assert page.value("document.querySelector('#inputs img').offsetParent !== null")
        focus(page, "input-image")
        page.press("Enter", 13, CONTROL)
        answer = page.wait_for("result", "seven")
        assert "90.0 %" in answer and "version 3, answered in" in answer
        assert model.asked == [(content, 1000)]
        assert fits(page) and not page.complaints


def test_an_example_image_is_asked(tmp_path: Path) -> None:
    content = image(24, 24)
    model = digits(content)
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_until("document.querySelector('#examples img')?.naturalWidth === 24")
        page.value("document.querySelector('#examples button').click()")
        page.wait_for("inputs", f"24 × 24 pixels, {len(content)} bytes")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "seven")
        assert model.asked == [(content, 1000)]
        assert page.text_of("facts").count("Reads") == 0
        assert page.value("document.getElementById('file-row').offsetParent === null")
        assert fits(page) and not page.complaints


def test_what_is_no_image_is_refused_and_nothing_is_no_request(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    model = digits()
    with serving(model) as url, browsing(url, DESKTOP, tmp_path / "browser") as page:
        page.wait_for("name", "image-classification")
        page.value("document.getElementById('ask').click()")
        assert page.value("document.getElementById('input-image').matches(':invalid')")
        page.drop("#inputs .drop", link="https://example.com/photo.jpg")
        assert page.value("document.getElementById('input-image').files.length") == 0
        page.drop("#inputs .drop", [tmp_path / "notes.txt"])
        page.wait_for("inputs", "8 bytes, which this browser cannot show")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "not an image")
        with (tmp_path / "large.bmp").open("wb") as file:
            file.truncate(24_000_001)
        page.choose("input-image", tmp_path / "large.bmp")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "large.bmp has 24.0 MB: at most 24 MB are sent")
        assert not model.asked


def test_a_program_sends_the_image_as_a_file(tmp_path: Path) -> None:
    content = image(24, 24)
    (tmp_path / "photo.png").write_bytes(content)
    model = digits()
    with serving(model) as url, browsing(url, DESKTOP, tmp_path / "browser") as page:
        page.wait_for("name", "image-classification")
        page.choose("input-image", tmp_path / "photo.png")
        page.wait_for("inputs", "24 × 24")
        shell, python = (
            str(page.value(f"document.getElementById('{name}').textContent"))
            for name in ("curl", "python")
        )
        for command in (["bash", "-c", shell], [sys.executable, "-c", python]):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
            assert "seven" in done.stdout
        assert model.asked == [(content, 3), (content, 3)]


@SIZES
def test_several_inputs_have_a_widget_each(size: tuple[int, int], tmp_path: Path) -> None:
    example = {"question": "Who lives in Rome?", "context": CONTEXT}
    model = answers(part("Bo"), example)
    with serving(model) as url, browsing(url, size, tmp_path) as page:
        page.wait_for("inputs", "Question\\s+Context")
        page.wait_until("document.activeElement.id === 'input-question'")
        page.type("Who lives in Oslo?")
        page.press("Tab", 9)
        page.type(CONTEXT)
        page.press("Enter", 13, CONTROL)
        page.wait_for("result", "Bo")
        page.value("document.querySelector('#examples button').click()")
        assert page.value("document.getElementById('input-question').value") == example["question"]
        asked = str(page.value("document.getElementById('curl').textContent"))
        assert json.dumps(example["question"]) in asked
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["outputs"] == [part("Bo")]
        assert model.asked == [
            ({"question": "Who lives in Oslo?", "context": CONTEXT}, None),
            (example, None),
        ]
        assert fits(page) and not page.complaints


@pytest.mark.parametrize("text", ["Ann 🎬", "Oslo", MARKUP, "Rome."])
def test_a_span_is_marked_in_the_context(text: str, tmp_path: Path) -> None:
    example = {"question": "Who?", "context": CONTEXT}
    with serving(answers(part(text), example)) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("examples", "Who")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert "87.5 %" in page.wait_for("result", "answered in")
        assert page.value("document.querySelector('#result strong').textContent") == text
        assert page.value("document.querySelector('#result mark').textContent") == text
        assert page.value("document.querySelector('#result .context').textContent") == CONTEXT
        assert page.value("document.querySelectorAll('main b').length") == 0, "text alone"
        assert fits(page) and not page.complaints


def test_a_context_without_an_answer_says_so(tmp_path: Path) -> None:
    nothing = {"score": 0.75, "start": 0, "end": 0, "answer": ""}
    example = {"question": "Who?", "context": CONTEXT}
    with serving(answers(nothing, example)) as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("examples", "Who")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert "75.0 %" in page.wait_for("result", "no answer")
        assert page.value("document.querySelector('#result mark') === null")
        assert page.value("document.querySelector('#result .context').textContent") == CONTEXT


def test_the_answer_in_a_long_context_is_in_sight(tmp_path: Path) -> None:
    context = "word " * 4000 + "Oslo" + " word" * 4000
    found = {"score": 0.5, "start": 20_000, "end": 20_004, "answer": "Oslo"}
    model = answers(found, {"question": "Where?", "context": context})
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("examples", "Where")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "answered in")
        box = "document.querySelector('#result .context').getBoundingClientRect()"
        mark = "document.querySelector('#result mark').getBoundingClientRect()"
        assert page.value(f"{box}.height < 300 && {box}.top < {mark}.top")
        assert page.value(f"{mark}.bottom < {box}.bottom")
        assert page.value("document.querySelector('#result .context').tabIndex") == 0


@pytest.mark.parametrize("given", [[MARKUP, "dull"], []])
def test_labels_that_are_given_have_a_bar(given: list[str], tmp_path: Path) -> None:
    found = [{"label": label, "score": 0.75} for label in given]
    model = FakeTask("multi-label-classification", found, labels=("dull", "x"), examples=["a film"])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("examples", "a film")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        shown = page.wait_for("result", "answered in")
        assert [label in shown for label in given] == [True] * len(given)
        assert ("no label" in shown) == (not given)
        assert page.value("document.querySelectorAll('#result .track').length") == len(given)
        assert page.value("document.querySelectorAll('main b').length") == 0, "text alone"
        assert model.asked == [("a film", None)] and not page.complaints


@pytest.mark.parametrize("several", [False, True])
def test_tokens_for_hidden_ones_are_shown(several: bool, tmp_path: Path) -> None:
    ranked = [
        {"score": score, "token": 7, "token_str": word, "sequence": f"a {word} film"}
        for word, score in ((MARKUP, 0.75), ("dull", 0.25))
    ]
    model = FakeTask("fill-mask", [ranked, ranked] if several else ranked, examples=["a [MASK]"])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("examples", "MASK")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert f"a {MARKUP} film" in page.wait_for("result", "answered in")
        tracks = page.value("document.querySelectorAll('#result .track').length")
        assert tracks == (4 if several else 2)
        assert page.value("document.querySelectorAll('main b').length") == 0, "text alone"
        assert fits(page) and not page.complaints


def test_a_vector_is_compared_with_the_one_before(tmp_path: Path) -> None:
    columns = {"text": "t", "positive": "p"}
    model = FakeTask("feature-extraction", [0.6, 0.8], columns, ["a film"])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("name", "feature-extraction")
        page.type(MARKUP)
        page.press("Enter", 13, CONTROL)
        shown = page.wait_for("result", "answered in")
        assert "2 numbers: 0.600, 0.800" in shown and "before" not in shown
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert MARKUP in page.wait_for("result", "1.000 like the text before")
        assert page.value("document.querySelectorAll('main b').length") == 0, "text alone"
        assert fits(page) and not page.complaints


def test_passages_are_ranked(tmp_path: Path) -> None:
    found = [
        {"index": place, "score": score, "text": text}
        for place, score, text in ((1, 0.75, MARKUP), (0, 0.25, "Bo"))
    ]
    example = {"query": "who", "passages": ["Bo\nCy", MARKUP]}
    columns = {"query": "q", "passages": "p", "scores": "s"}
    model = FakeTask("text-ranking", found, columns, [example])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("inputs", "Query\\s+Passages")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert "75.0 %" in page.wait_for("result", "answered in")
        assert page.value("document.querySelectorAll('#result .track').length") == 2
        assert page.value("document.querySelectorAll('main b').length") == 0, "text alone"
        assert model.asked == [({"query": "who", "passages": ["Bo Cy", MARKUP]}, None)]
        asked = str(page.value("document.getElementById('curl').textContent"))
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["outputs"] == [found]
        assert fits(page) and not page.complaints


def test_next_items_are_shown(tmp_path: Path) -> None:
    found = [{"item": MARKUP, "score": 0.75}, {"item": "lamp", "score": 0.25}]
    example = {"items": ["desk", MARKUP]}
    model = FakeTask("next-item-prediction", found, {"items": "basket"}, [example])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("inputs", "Items")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert "75.0 %" in page.wait_for("result", "answered in")
        assert page.value("document.querySelectorAll('#result .track').length") == 2
        assert page.value("document.querySelectorAll('main b').length") == 0, "text alone"
        assert model.asked == [(example, None)]
        assert fits(page) and not page.complaints


@pytest.mark.parametrize("texts", [["Ann 🎬", "Oslo", "Rome"], [MARKUP], []])
def test_entities_are_marked_in_the_text(texts: list[str], tmp_path: Path) -> None:
    found = [
        {"entity_group": "<i>X</i>", "score": 0.875, "word": text, **span}
        for text, span in zip(texts, map(place_of, texts), strict=True)
    ]
    model = FakeTask("token-classification", found, {"tokens": "t"}, [CONTEXT])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("examples", "Ann")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", f"{len(texts) or 'nothing'} found")
        page.wait_for("result", "answered in")
        marks = "[...document.querySelectorAll('#result mark')]"
        assert page.value(f"{marks}.map(e => e.firstChild.textContent).join('|')") == "|".join(
            texts
        )
        page.value(f"{marks}.forEach(e => e.lastChild.remove())")
        assert page.value("document.querySelector('#result .context').textContent") == CONTEXT
        assert page.value("document.querySelectorAll('main b, main i').length") == 0, "text alone"
        assert fits(page) and not page.complaints


@pytest.mark.parametrize(
    ("score", "shown"), [(-0.123456789, ["-0.12346"]), ([3.0, 12345678.9], ["3", "12345679"])]
)
def test_numbers_are_shown(score: Any, shown: list[str], tmp_path: Path) -> None:
    model = FakeTask("text-regression", {"score": score}, {"text": "t", "score": "s"})
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("name", "text-regression")
        page.type("a wonderful film")
        page.press("Enter", 13, CONTROL)
        found = page.wait_for("result", "answered in").split()
        assert [word for word in found if word in shown] == shown
        assert model.asked == [("a wonderful film", None)]
        assert fits(page) and not page.complaints


def test_a_text_that_comes_whole_is_text_and_nothing_more(tmp_path: Path) -> None:
    written = f"{MARKUP}\n  a second line"
    columns = {"text": "t", "target": "s"}
    model = FakeTask("text2text-generation", {"generated_text": written}, columns)
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        page.wait_for("name", "text2text-generation")
        page.type("a wonderful film")
        page.press("Enter", 13, CONTROL)
        page.wait_for("result", "answered in")
        assert page.value("document.querySelector('#result .written').textContent") == written
        assert page.value("document.querySelectorAll('main b, main i').length") == 0
        assert model.asked == [("a wonderful film", None)]
        assert fits(page) and not page.complaints


def test_a_pair_of_texts_is_asked_from_a_file(tmp_path: Path) -> None:
    columns = {"text": "a", "text_pair": "b", "score": "s"}
    model = FakeTask("text-regression", {"score": 0.5}, columns)
    (tmp_path / "rows.csv").write_text('text_pair,text\nnot,"a ""fine"" film"\n')
    with serving(model) as url, browsing(url, DESKTOP, tmp_path / "browser") as page:
        page.wait_for("inputs", "Text\\s+Text pair")
        page.value("document.getElementById('file-row').open = true")
        assert "fields text and text_pair" in page.text_of("file-about")
        page.choose("file", tmp_path / "rows.csv")
        shown = page.wait_for("rows", "All 1 rows")
        assert 'a "fine" film' in shown and "0.500" in shown and "Text pair" in shown
        assert model.asked == [({"text": 'a "fine" film', "text_pair": "not"}, None)]


@SIZES
def test_a_row_of_a_table_has_a_field_for_each_column(
    size: tuple[int, int], tmp_path: Path
) -> None:
    kinds: dict[str, Any] = {"age": "number", "job": "category", "id": "ignore", "on": "date"}
    scores = [{"label": "no", "score": 0.9}, {"label": "yes", "score": 0.1}]
    golden = {"age": 41.5, "job": MARKUP, "on": None}
    model = FakeTask("tabular-classification", scores, {"label": "bad"}, [golden])
    columns = tuple(Column(name=name, kind=kind) for name, kind in kinds.items())
    model.info = model.info.model_copy(update={"labels": ("no", "yes"), "columns": columns})
    with serving(model) as url, browsing(url, size, tmp_path) as page:
        page.wait_for("inputs", "Age")
        assert "Id" not in page.text_of("inputs") and MARKUP in page.text_of("examples")
        focus(page, "input-age")
        page.type("33")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "90.0 %")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        page.wait_for("result", "90.0 %")
        page.wait_until("document.getElementById('ask').disabled === false")
        assert model.asked[-1][0] == golden
        assert model.asked[0][0] == {"age": 33, "job": None, "on": None}
        assert fits(page) and not page.complaints


def test_labels_are_text_and_nothing_more(tmp_path: Path) -> None:
    scores = [{"label": MARKUP, "score": 0.75}, {"label": "one", "score": 0.25}]
    model = FakeTask("text-classification", scores, labels=(MARKUP, "one"), examples=[MARKUP])
    with serving(model) as url, browsing(url, PHONE, tmp_path) as page:
        assert MARKUP in page.wait_for("facts", "Labels")
        page.value("document.querySelector('#examples button').click()")
        page.value("document.getElementById('ask').click()")
        assert MARKUP in page.wait_for("result", "answered in")
        assert page.value("document.querySelectorAll('main b').length") == 0
        width = "document.querySelector('.track div').offsetWidth / {}.offsetWidth"
        bar = page.value(width.format("document.querySelector('.track')"))
        assert bar == pytest.approx(0.75, abs=0.02)
        assert not page.complaints


def test_the_form_follows_the_chosen_model(tmp_path: Path) -> None:
    models = FakeBackend("reviews"), digits(), answers(part("Bo"))
    with serving(*models) as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("name", "reviews")
        page.type("kept")
        for name, shown in (
            ("image-classification", ["input-image"]),
            ("question-answering", ["input-question", "input-context"]),
            ("reviews", ["input-text"]),
        ):
            page.value(f"document.getElementById('choice').value = '{name}'")
            page.value("document.getElementById('choice').dispatchEvent(new Event('change'))")
            page.wait_for("name", name)
            found = page.value("[...document.querySelectorAll('#inputs [id]')].map(e => e.id) + ''")
            assert found.split(",") == shown
        assert not page.complaints


def test_the_policy_stops_what_is_not_the_pages_own(tmp_path: Path) -> None:
    attempts = """
        window.stopped = [];
        addEventListener("securitypolicyviolation", (e) => stopped.push(e.effectiveDirective));
        const add = (tag, name, value) => {
            const node = document.createElement(tag);
            try { node[name] = value; } catch { stopped.push("trusted types"); }
            document.body.append(node);
        };
        add("img", "src", "https://example.com/pixel.png");
        add("style", "textContent", "body { color: red; }");
        add("div", "innerHTML", "<b>bold</b>");
        add("link", "href", "data:,");
        fetch("https://example.com/").catch(() => {});
    """
    with serving() as url, browsing(url, DESKTOP, tmp_path) as page:
        page.wait_for("name", "reviews")
        page.value(attempts)
        for stopped in ("img-src", "style-src-elem", "connect-src", "trusted types"):
            page.wait_until(f"stopped.includes('{stopped}')")
