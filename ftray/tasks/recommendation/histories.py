"""Histories as examples: a model learns the items that follow in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftray.tasks.base import BadRow, Example, TaskSetup, is_missing
from ftray.tasks.recommendation.items import item_name, items_of, vocabulary
from ftray.tasks.text.language_model.token_loss import NO_TOKEN
from ftray.tasks.text.texts import IDS

TRUTH, COUNT = "truth", "count"
"""Features: the item that follows each one, `NO_TOKEN` where it is not learnt; the number of items
to learn."""


def following_of(value: Any, items: Sequence[str]) -> list[str]:
    """Return the clean column `next`: of a raw row the one item that follows the history, of a
    clean row its list. Raises BadRow."""
    is_list = isinstance(value, (list, tuple, np.ndarray))
    if is_list or isinstance(value, str) and value.strip().startswith("["):
        found = items_of(value)
        if not found:
            raise BadRow("missing_item")
        if found[:-1] != list(items[len(items) - len(found) + 1 :]):
            raise BadRow("several_next_items", ", ".join(found)[:80])
        return found
    if is_missing(value):
        raise BadRow("missing_item")
    return [item_name(value)]


def known(setup: TaskSetup, items: Sequence[str]) -> list[int]:
    """Return the tokens of the items that the model knows."""
    tokens = vocabulary(setup.processor)
    return [tokens[name] for name in items if name in tokens]


def learnt(setup: TaskSetup, items: Sequence[str], following: Sequence[str]) -> Example:
    """Return the features of a history: items that the model does not know are left out; where it
    knows none, the history is one unknown item, so that what follows counts. Empty for no items."""
    tokens, unknown = vocabulary(setup.processor), setup.processor.unk_token_id
    places = [place for place, name in enumerate(items) if name in tokens]
    ids = [tokens[items[place]] for place in places]
    if not items:
        return {}
    if not ids:
        places, ids = [len(items) - 1], [unknown]
    aims, first = [*ids[1:], tokens.get(following[-1], unknown)], len(items) - len(following)
    truth = [aim if place >= first else NO_TOKEN for place, aim in zip(places, aims, strict=True)]
    # What follows the whole history is learnt, whatever of its end is left out.
    return {IDS: ids, TRUTH: [*truth[:-1], aims[-1]]}


def cut(setup: TaskSetup, example: Example) -> Example:
    """Return the example with the latest items alone, and the number of those to learn."""
    latest = {name: values[-setup.max_length :] for name, values in example.items()}
    return {**latest, COUNT: sum(aim != NO_TOKEN for aim in latest[TRUTH])}
