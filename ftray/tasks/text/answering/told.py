"""Checks the answers of a source row: parts of its context."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftray.tasks.base import BadRow, is_missing
from ftray.tasks.text.blank import is_blank
from ftray.tasks.text.texts import clean_text


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
