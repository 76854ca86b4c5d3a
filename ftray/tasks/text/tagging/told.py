"""Reads the tags of a source row: lists of tokens and tags, or a text and its spans.

A clean row has a text, its words and a tag for each word. Tags with a prefix are brought into one
scheme, IOB2 (Tjong Kim Sang & Veenstra 1999): B- begins a span, I- goes on with it, O is outside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ftray.tasks.base import BadRow, is_missing
from ftray.tasks.labels import label_name
from ftray.tasks.text.blank import is_blank
from ftray.tasks.text.tagging.words import Word, split_at, words_of

OUTSIDE = "O"
_PREFIXED = re.compile(r"([BIESLU])-(.+)")
_BEGIN, _END = frozenset("BSU"), frozenset("ESLU")
"""Prefixes of the first and of the last word of a span in the schemes IOBES and BILOU."""


class Tagged(NamedTuple):
    """A text with a tag for each of its words."""

    text: str
    words: Sequence[Word]
    tags: Sequence[str]

    def to_json(self) -> str:
        return json.dumps({"words": self.words, "tags": self.tags}, ensure_ascii=False)


class _Span(NamedTuple):
    start: int
    end: int
    label: str


def tagged_tokens(tokens: Any, tags: Any) -> Tagged:
    """Return the text of a row's tokens, with a space between any two, and its tags. Raises
    BadRow."""
    told = _list(tokens, "tokens")
    if is_missing(tags):
        raise BadRow("missing_tags")
    names = [label_name(tag) for tag in _list(tags, "tags")]
    if len(told) != len(names):
        raise BadRow("tags_do_not_fit", f"{len(told)} tokens and {len(names)} tags")
    pairs = [pair for pair in zip(told, names, strict=True) if not is_blank(pair[0])]
    words, place = [], 0
    for token, _ in pairs:
        words.append(Word(place, place + len(token)))
        place += len(token) + 1
    return Tagged(" ".join(t for t, _ in pairs), words, iob2([tag for _, tag in pairs]))


def text_of(tokens: Any) -> str:
    """Return the text of a row's tokens, as `tagged_tokens` does. Raises BadRow."""
    text = " ".join(token for token in _list(tokens, "tokens") if not is_blank(token))
    if is_blank(text):
        raise BadRow("empty_tokens")
    return text


def tagged_spans(text: str, spans: Any) -> Tagged:
    """Return the words of a text with the tags of its spans, {"start", "end", "label"} or [start,
    end, label] each; or of the words and tags of a clean row. Raises BadRow."""
    told = _parsed(spans, "spans")
    if is_missing(told):
        raise BadRow("missing_spans")
    if isinstance(told, Mapping) and told.keys() == {"words", "tags"}:
        return Tagged(text, [Word(*word) for word in told["words"]], told["tags"])
    if not isinstance(told, (list, np.ndarray)):
        raise BadRow("spans_not_a_list", repr(told)[:80])
    found = sorted({_span(each, text): None for each in told})
    for one, other in pairwise(found):
        if other.start < one.end:
            what = " and ".join(f"{each.label} {each.start}-{each.end}" for each in (one, other))
            raise BadRow("overlapping_spans", what[:160])
    edges = [place for span in found for place in (span.start, span.end)]
    words = list(split_at(words_of(text), edges))
    return Tagged(text, words, list(_tags(words, found)))


def _tags(words: Sequence[Word], spans: Sequence[_Span]) -> Iterator[str]:
    at = 0
    for word in words:
        while at < len(spans) and spans[at].end <= word.start:
            at += 1
        if at == len(spans) or word.end <= spans[at].start:
            yield OUTSIDE
        else:
            yield f"{'B' if word.start == spans[at].start else 'I'}-{spans[at].label}"


def _span(value: Any, text: str) -> _Span:
    """Return a span without white space at its ends."""
    if isinstance(value, (list, tuple, np.ndarray)) and len(value) == 3:
        start, end, label = value
    elif isinstance(value, Mapping):
        names = ("label", "entity_group", "entity", "tag")
        start, end = value.get("start"), value.get("end")
        label = next((value[name] for name in names if name in value), None)
    else:
        raise BadRow("span_not_an_object", repr(value)[:80])
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in (start, end)):
        raise BadRow("span_without_place", repr(value)[:80])
    name = label_name(label)
    if not 0 <= start <= end <= len(text):
        raise BadRow("span_outside_text", f"{name} {start}-{end} of {len(text)} characters")
    inside = text[start:end]
    if is_blank(inside):
        raise BadRow("empty_span", f"{name} {start}-{end}")
    start += len(inside) - len(inside.lstrip())
    return _Span(int(start), int(start) + len(inside.strip()), name)


def _list(value: Any, column: str) -> list[Any]:
    """Return a list of texts or tags, which a CSV file has as JSON, or as a text with spaces."""
    if is_missing(value):
        raise BadRow(f"empty_{column}")
    told = _parsed(value, column) if str(value).lstrip().startswith("[") else value
    told = told.split() if isinstance(told, str) else told
    if not isinstance(told, (list, tuple, np.ndarray)):
        raise BadRow(f"{column}_not_a_list", repr(value)[:80])
    if column == "tokens" and not all(isinstance(each, str) for each in told):
        raise BadRow("token_not_a_string", repr(value)[:80])
    if not len(told):
        raise BadRow(f"empty_{column}")
    return list(told)


def _parsed(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadRow(f"{column}_not_json", str(error)) from None


def kind_of(tag: str) -> str:
    """Return a tag without its prefix."""
    found = _PREFIXED.fullmatch(tag)
    return found[2] if found else tag


def has_prefix(tag: str) -> bool:
    return _PREFIXED.fullmatch(tag) is not None


def iob2(tags: Sequence[str]) -> list[str]:
    """Return tags of the schemes IOB1, IOB2, IOBES and BILOU in IOB2. A tag without a prefix stays
    as it is."""
    found, kind, ended = [], "", True
    for tag in tags:
        told = _PREFIXED.fullmatch(tag)
        if told is None:
            found.append(tag)
            kind, ended = "", True
            continue
        begins = ended or told[1] in _BEGIN or told[2] != kind
        found.append(f"{'B' if begins else 'I'}-{told[2]}")
        kind, ended = told[2], told[1] in _END
    return found
