"""Reads chats and completions of source rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from ftray.tasks.base import BadRow, is_missing
from ftray.tasks.text.blank import is_blank

ASSISTANT = "assistant"
"""Role of the turns that a model writes."""


class Turn(TypedDict):
    """A chat turn. weight: 0 where the turn is an answer that is not to be learnt."""

    role: str
    content: str
    weight: NotRequired[Literal[0]]


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
    if more := sorted(told.keys() - {"role", "content", "name", "weight"}):
        raise BadRow("message_not_plain", f"{more[0]} cannot be learnt from")
    turn: Turn = {"role": _encodable(told["role"]), "content": _encodable(told["content"])}
    if not _is_learnt(told.get("weight", 1), turn["role"]):
        turn["weight"] = 0
    return turn


def _is_learnt(weight: Any, role: str) -> bool:
    """Return whether a turn of this weight, 0 or 1 as in OpenAI's format, is learnt. Raises
    BadRow."""
    if isinstance(weight, bool) or not isinstance(weight, Real) or weight not in (0, 1):
        raise BadRow("bad_weight", f"0 or 1 is wanted, not {weight!r}"[:80])
    if not weight and role != ASSISTANT:
        raise BadRow("bad_weight", f"0, of a turn of {role}: only answers are learnt"[:80])
    return bool(weight)


def answer_of(turn: Turn) -> str:
    """Return the content of a chat's last turn, which is learnt. Raises BadRow."""
    if turn["role"] != ASSISTANT:
        raise BadRow("no_answer", f"the last turn is of {turn['role']}")
    if "weight" in turn:
        raise BadRow("no_answer", "the last turn has weight 0: leave it out of the chat")
    return filled(turn["content"])


def completion_of(value: Any, column: str = "completion") -> str:
    """Return an answer that is a text, or a chat of one turn. Raises BadRow."""
    if isinstance(value, (list, np.ndarray)):
        turns = turns_of(value)
        if len(turns) != 1:
            raise BadRow("no_answer", "one turn of the assistant is wanted")
        return answer_of(turns[0])
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
