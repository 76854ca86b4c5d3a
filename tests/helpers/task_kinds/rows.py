"""Writes a few rows of each task, whose answers a tiny model can learn."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("plot", "actor", "scene", "film", "end", "music", "light", "story")
NAMES = ("alice", "bob", "carla", "david", "emma", "frank")
CITIES = ("paris", "london", "rome", "berlin", "vienna", "oslo")
SIDE = 64
"""Height and width of the images."""


def _lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def scored(folder: Path, rows: int) -> Path:
    """Texts whose score is the number of times that `film` is in them."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(WORDS, k=draw.randint(3, 9))
        made.append({"text": f"{' '.join(words)} {row}", "score": words.count("film") - 1.5})
    return _lines(folder, made)


def compared(folder: Path, rows: int) -> Path:
    """Pairs of texts with two scores: the words that both share, and the length of the first."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        first, second = (draw.choices(WORDS, k=draw.randint(2, 6)) for _ in range(2))
        scores = [len(set(first) & set(second)), len(first)]
        made.append(
            {"text": f"{' '.join(first)} {row}", "text_pair": " ".join(second), "score": scores}
        )
    return _lines(folder, made)


def written(folder: Path, rows: int) -> Path:
    """Texts that repeat the same few words in their order."""
    draw = random.Random(0)
    return _lines(
        folder,
        [
            {"text": f"{' '.join((WORDS * 3)[start : start + 12])} {row}"}
            for row, start in enumerate(draw.choices(range(len(WORDS)), k=rows))
        ],
    )


def flagged(folder: Path, rows: int) -> Path:
    """Texts with a column of 0 and 1 for each of two words; one of four has neither."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(("plot", "actor", "scene", "film", "end"), k=4)
        flags = {name: int(name in words) for name in ("film", "plot")}
        made.append({"text": f"{' '.join(words)} {row}", **flags})
    return _lines(folder, made)


def tagged(folder: Path, rows: int) -> Path:
    """A CoNLL file whose names and cities are tagged; some sentences are longer than a window."""
    draw = random.Random(0)
    sentences = []
    for row in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        filler = draw.choices(WORDS, k=draw.randint(0, 40))
        words = [(word, "O") for word in (*filler, str(row))]
        words += [(name, "B-PER"), ("smith", "I-PER"), ("lives", "O"), ("in", "O"), (city, "B-LOC")]
        sentences.append("".join(f"{word} {tag}\n" for word, tag in words))
    file = folder / "rows.conll"
    file.write_text("\n".join(sentences))
    return file


def asked(folder: Path, rows: int) -> Path:
    """Questions about where someone lives; one of six has no answer."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        filler = " ".join(draw.choices(WORDS, k=draw.randint(2, 30)))
        context = f"{filler} {row} . {name} lives in {city} . the {draw.choice(WORDS)}"
        if row % 6 == 5:
            made.append(
                {
                    "question": "what is the price",
                    "context": context,
                    "answers": {"text": [], "answer_start": []},
                }
            )
            continue
        answer = {"text": [city], "answer_start": [context.index(f"in {city}") + 3]}
        made.append({"question": f"where does {name} live", "context": context, "answers": answer})
    return _lines(folder, made)


def told(folder: Path, rows: int) -> Path:
    """Chats with two answers, which name the city of the question before them."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []
    for row in range(rows):
        turns = [{"role": "system", "content": f"be kind {row}"}]
        for city in draw.sample(CITIES, k=2):
            turns.append({"role": "user", "content": f"where is {city}"})
            turns.append({"role": "assistant", "content": f"here is {city}"})
        made.append({"messages": turns})
    return _lines(folder, made)


def rents(folder: Path, rows: int) -> Path:
    """A table whose number depends on two columns; some cells are missing."""
    draw = random.Random(0)
    lines = ["rooms,city,built,rent"]
    for row in range(rows):
        rooms, city = draw.randint(1, 9), draw.choice(CITIES)
        rent = rooms * 100 + (300 if city in CITIES[:3] else 0)
        lines.append(
            f"{rooms},{'' if row % 9 == 0 else city},19{draw.randint(10, 99)}-05-01,{rent}"
        )
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def loans(folder: Path, rows: int) -> Path:
    """A table whose answer depends on a number and a category; some cells are missing."""
    draw = random.Random(0)
    lines = ["age,job,since,note,bad"]
    for row in range(rows):
        age, job = draw.randint(18, 80), draw.choice(("cook", "nurse", "pilot"))
        bad = "yes" if (age > 50) != (job == "cook") else "no"
        shown = "" if row % 9 == 0 else str(age)
        since = f"20{draw.randint(10, 24)}-0{draw.randint(1, 9)}-11"
        lines.append(f"{shown},{job},{since},{draw.choice(WORDS)} is noted in {row},{bad}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def shortened(folder: Path, rows: int) -> Path:
    """Texts of which the target keeps who lives where."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []
    for _ in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        filler = " ".join(draw.choices(WORDS, k=draw.randint(2, 20)))
        made.append({"text": f"{filler} . {name} lives in {city}", "target": f"{name} in {city}"})
    return _lines(folder, made)


def preferred(folder: Path, rows: int) -> Path:
    """Prompts with two answers, of which the one that names the film was chosen."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(WORDS, k=draw.randint(1, 6))
        chosen, rejected = f" a film {draw.choice(WORDS)}", f" no {' '.join(words[:3])}"
        prompt = f"{' '.join(words)} {row}"
        made.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return _lines(folder, made)


def continued(folder: Path, rows: int) -> Path:
    """Prompts of very different lengths, whose completion is the word that comes first in them."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        words = draw.choices(WORDS, k=draw.choice((1, 2, 3, 12)))
        made.append({"prompt": f"{' '.join(words)} {row}", "completion": f" {words[0]}"})
    return _lines(folder, made)


def image(label: int, draw: np.random.Generator, kind: str = "PNG") -> bytes:
    """An image whose bright quarter tells its label, 0 to 3."""
    from PIL import Image

    pixels = draw.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    half = SIDE // 2
    top, left = (label // 2) * half, (label % 2) * half
    pixels[top : top + half, left : left + half] += 150
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def pictured(folder: Path, rows: int) -> Path:
    """A folder for each of four labels, with images."""
    draw = np.random.default_rng(0)
    for row in range(rows):
        label = row % 4
        place = folder / f"quarter-{label}"
        place.mkdir(exist_ok=True)
        (place / f"{row:03}.png").write_bytes(image(label, draw))
    return folder


def entailed(folder: Path, rows: int) -> Path:
    """Pairs of texts; whether all words of the second are in the first."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        first = draw.sample(WORDS, k=4)
        others = [word for word in WORDS if word not in first]
        pair = draw.sample(first if row % 2 else others, k=2)
        label = "entailment" if row % 2 else "neutral"
        made.append(
            {"text": f"{' '.join(first)} {row}", "text_pair": " ".join(pair), "label": label}
        )
    return _lines(folder, made)


def belonging(folder: Path, rows: int) -> Path:
    """Pairs of texts that share a name and a city."""
    draw = random.Random(0)
    made = []
    for row in range(rows):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        words = " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        made.append({"text": f"{name} {row} {words}", "positive": f"{city} of {name} {row}"})
    return _lines(folder, made)


def judged(folder: Path, rows: int) -> Path:
    """Queries with passages, of which the one with the city of the query is relevant."""
    draw = random.Random(0)
    made: list[dict[str, Any]] = []
    for row in range(rows):
        right, *wrong = draw.sample(CITIES, k=3)
        name = draw.choice(NAMES)
        passages = [f"{draw.choice(NAMES)} lives in {city}" for city in wrong]
        query = f"{name} {row} of {right}"
        made.append({"query": query, "positive": f"a person in {right}", "negative": passages})
    return _lines(folder, made)


def listed(folder: Path, rows: int) -> Path:
    """Lists of words in their order, from any of them on; sometimes a name stands between."""
    draw = random.Random(0)
    made = []
    for _ in range(rows):
        start, count = draw.randrange(len(WORDS)), draw.randint(3, 12)
        items = list((WORDS * 3)[start : start + count])
        items.insert(draw.randrange(count), draw.choice(NAMES))
        made.append({"items": items})
    return _lines(folder, made)
