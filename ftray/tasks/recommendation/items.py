"""Names and lists of items, as files and requests have them, and the tokens that a model has for
them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ftray.errors import ModelError
from ftray.tasks.base import BadRow, is_missing
from ftray.tasks.info import Sequences
from ftray.tasks.labels import label_name, listed

ITEMS, NEXT = "items", "next"
MADE_FOR = "made_for"
"""Entry of a tokenizer's config that says what its tokens are."""


def item_name(value: Any) -> str:
    """Return the name of an item, the same for all of its spellings: 7, 7.0 and the text "7" are
    one. Raises BadRow where it is missing or is no text, number or boolean."""
    try:
        name = label_name(value)
        name.encode()
    except BadRow as fault:
        raise BadRow(fault.kind.replace("label", "item"), fault.detail) from None
    except UnicodeEncodeError:
        raise BadRow("item_not_a_name", ascii(value)[:80]) from None
    return name


def items_of(value: Any) -> list[str]:
    """Return the names in a sequence of items: a list, in JSON or not, or a text with separators.
    Raises BadRow."""
    told = listed(value, "items_not_json") if isinstance(value, str) else value
    if not isinstance(told, (list, tuple, np.ndarray)):
        kind = "missing_items" if is_missing(told) else "items_not_a_list"
        raise BadRow(kind, "" if is_missing(told) else repr(told)[:80])
    return [item_name(item) for item in told]


SEQUENCES = Sequences(ITEMS, NEXT, "user", "item", "time", items_of, item_name)


@lru_cache(maxsize=8)
def vocabulary(tokenizer: Any) -> Mapping[str, int]:
    """Return the token of each item that a model knows. Raises ModelError for a tokenizer of
    language."""
    if tokenizer.init_kwargs.get(MADE_FOR) != ITEMS:
        raise ModelError.of(
            "model.name_or_path",
            tokenizer.name_or_path,
            "its tokenizer has words of a language, and not items",
            "write new://items, or name a model that was trained from it",
        )
    special = set(tokenizer.all_special_tokens)
    known: dict[str, int] = tokenizer.get_vocab()
    return {name: token for name, token in known.items() if name not in special}
