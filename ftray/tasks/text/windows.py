"""Reads answers and contexts of question answering: checks the spans of a source row, splits a
context into windows, and finds an answer's tokens in a window."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ftray.errors import ModelError
from ftray.tasks.base import BadRow, TaskSetup, is_missing
from ftray.tasks.features import Example
from ftray.tasks.text.blank import frame, has_tokens, is_blank
from ftray.tasks.text.texts import IDS, TYPES, clean_text

OFFSETS, CONTEXT = "offsets", "context"
"""Features of a window on the host: characters of each token, and the whole context in UTF-8."""


def told_spans(value: Any, context: str) -> list[tuple[int, str]]:
    """Return the start and the text of each answer of a source row. Raises BadRow."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow("answers_not_json", str(error)) from None
    if is_missing(value):
        raise BadRow("missing_answers")
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if not isinstance(texts, (list, np.ndarray)) or not isinstance(starts, (list, np.ndarray)):
            raise BadRow("answers_without_text", "text and answer_start are lists")
        if len(texts) != len(starts):
            raise BadRow("answers_without_text", f"{len(texts)} texts, {len(starts)} starts")
        value = [{"text": t, "start": s} for t, s in zip(texts, starts, strict=True)]
    if not isinstance(value, (list, np.ndarray)):
        raise BadRow("answers_not_spans", repr(value)[:80])
    return sorted({_span(each, context): None for each in value})


def _span(value: Any, context: str) -> tuple[int, str]:
    if not isinstance(value, Mapping):
        raise BadRow("answers_not_spans", repr(value)[:80])
    text, start = value.get("text"), value.get("start", value.get("answer_start"))
    if not isinstance(text, str) or is_blank(text):
        raise BadRow("empty_answer")
    if isinstance(start, bool) or not isinstance(start, (int, np.integer)):
        raise BadRow("answer_without_start", repr(start)[:80])
    if context[start : start + len(text)] != text or start < 0:
        found = context[max(0, start) :][: len(text)]
        raise BadRow(
            "answer_not_there", f"at {start} the context has {found!r}, not {text!r}"[:160]
        )
    return int(start), text


def found_spans(value: Any, context: str) -> list[tuple[int, str]]:
    """Return the first place of an answer in the context; none for an empty answer. Raises
    BadRow."""
    if is_missing(value) or value == "":
        return []
    text = clean_text(value, "answer")
    start = context.find(text)
    if start < 0:
        raise BadRow("answer_not_there", f"the context does not have {text!r}"[:160])
    return [(start, text)]


def windows(setup: TaskSetup, question: str, context: str, stride: int) -> Iterator[Example]:
    """Yield the windows of a context, which share `stride` tokens; none where question or context
    gives no token. offsets: first and last character of each token of the context, flattened; -1
    for other tokens. Raises ModelError for a tokenizer in Python, which tells no offsets."""
    tokenizer = setup.processor
    if not tokenizer.is_fast:
        raise ModelError.of(
            "model.name_or_path",
            tokenizer.name_or_path,
            "its tokenizer does not tell where in a text a token stands",
            "name a model with a fast tokenizer (tokenizer.json)",
        )
    asked, around = _shortened(tokenizer, question, setup.max_length // 2), frame(tokenizer)
    room = setup.max_length - len(tokenizer(asked, "")[IDS])
    found = tokenizer(
        asked,
        context,
        truncation="only_second",
        max_length=setup.max_length,
        stride=max(0, min(stride, room - 1)),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    text = np.frombuffer(context.encode("utf-8", "surrogatepass"), np.uint8)
    for number, ids in enumerate(found[IDS]):
        parts = found.sequence_ids(number)
        if not all(
            has_tokens([i for i, p in zip(ids, parts, strict=True) if p == part], around)
            for part in (0, 1)
        ):
            continue
        offsets = [
            span if part == 1 else (-1, -1)
            for span, part in zip(found["offset_mapping"][number], parts, strict=True)
        ]
        types = {TYPES: found[TYPES][number]} if TYPES in found else {}
        flat = np.array(offsets, dtype=np.int32).ravel()
        yield {IDS: ids, **types, OFFSETS: flat, CONTEXT: text}


def _shortened(tokenizer: Any, question: str, most: int) -> str:
    """Return the part of a question that its first `most` tokens stand for."""
    found = tokenizer(
        question, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = found["offset_mapping"]
    return question if len(offsets) <= most else question[: offsets[most - 1][1]]


def places_of(example: Example) -> np.ndarray:
    """Return the first and last character of each token, (T, 2)."""
    return np.asarray(example[OFFSETS]).reshape(-1, 2)


def target_of(window: Example, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Return the first and the last token of an answer, given as characters; (0, 0) where the
    window does not hold all of it."""
    starts, ends = places_of(window).T
    inside = np.flatnonzero(starts >= 0)
    if answer is None or answer[0] < starts[inside[0]] or answer[1] > ends[inside[-1]]:
        return 0, 0
    first = inside[np.flatnonzero(starts[inside] <= answer[0])[-1]]
    last = inside[np.flatnonzero(ends[inside] >= answer[1])[0]]
    return int(first), int(max(first, last))


def context_of(example: Example) -> str:
    return bytes(np.asarray(example[CONTEXT])).decode("utf-8", "surrogatepass")
