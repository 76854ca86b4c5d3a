"""Reads chats and completions of source rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ftray.tasks.base import BadRow, is_missing
from ftray.tasks.text.blank import is_blank

Turn = dict[str, str]
"""A chat turn: role and content."""


def as_chat(text: str) -> list[Turn] | None:
    """Return the turns of a prompt that is a chat in JSON; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        return turns_of(text)
    except BadRow:
        return None


def turns_of(value: Any) -> list[Turn]:
    """Return the turns of a chat, given as a list or as JSON. Raises BadRow."""
    if is_missing(value):
        raise BadRow("empty_messages")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("messages_not_json", str(error)) from None
    if not isinstance(value, (list, np.ndarray)):
        raise BadRow("messages_not_a_list", repr(value)[:80])
    if not len(value):
        raise BadRow("empty_messages")
    return [_turn(turn) for turn in value]


def is_silent(turns: Sequence[Turn]) -> bool:
    """Return whether all turns of a chat are blank."""
    return all(is_blank(turn["content"]) for turn in turns)


def _turn(value: Any) -> Turn:
    if not isinstance(value, Mapping):
        raise BadRow("message_not_an_object", repr(value)[:80])
    told = {key: part for key, part in value.items() if not is_missing(part)}
    for key in ("role", "content"):
        if not isinstance(told.get(key), str):
            raise BadRow("message_without_text", f"{key}: {told.get(key)!r}"[:80])
    if more := sorted(told.keys() - {"role", "content", "name"}):
        raise BadRow("message_not_plain", f"{more[0]} cannot be learnt from")
    return {"role": _encodable(told["role"]), "content": _encodable(told["content"])}


def completion_of(value: Any, column: str = "completion") -> str:
    """Return an answer that is a text, or a chat of one turn. Raises BadRow."""
    if isinstance(value, (list, np.ndarray)):
        turns = turns_of(value)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise BadRow("no_answer", "one turn of the assistant is wanted")
        value = turns[0]["content"]
    return filled(value, column)


def filled(value: Any, column: str = "completion") -> str:
    """Return a text that is not blank. Raises BadRow."""
    if is_missing(value):
        raise BadRow(f"empty_{column}")
    if not isinstance(value, str):
        raise BadRow(f"{column}_not_a_string", repr(value)[:80])
    if is_blank(value):
        raise BadRow(f"empty_{column}")
    return _encodable(value)


def _encodable(text: str) -> str:
    """Return `text`. Raises BadRow where it has a lone surrogate (half a character), which JSON can
    escape."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("bad_encoding", str(error)) from None
    return text
