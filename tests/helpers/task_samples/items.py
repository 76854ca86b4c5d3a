"""Sample of next-item prediction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ftray.tasks.base import Row
from tests.helpers.task_samples.sample import NAN, Sample

ITEM_NAMES = tuple("abcdefgh")


def _item_tokenizer() -> Any:
    from ftray.tasks.new_shape import line_tokenizer
    from ftray.tasks.recommendation.items import MADE_FOR

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    places = {name: place for place, name in enumerate((*special.values(), *ITEM_NAMES))}
    return line_tokenizer(places, special, **{MADE_FOR: "items"})


def _followed(items: str, following: str) -> Row:
    """The clean row of items with names of one letter."""
    return {"items": json.dumps([*items]), "next": json.dumps([*following])}


NEXT_ITEM = Sample(
    base={
        "model_type": "gpt2",
        **{"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 4096},
        **{"vocab_size": 2 + len(ITEM_NAMES), "pad_token_id": 0},
        **{"bos_token_id": None, "eos_token_id": None},
    },
    processor=_item_tokenizer,
    clean=(
        ({"items": ["a", " b "], "next": "c"}, _followed("ab", "c")),
        ({"items": '["a", "b"]', "next": ["c"]}, _followed("ab", "c")),
        ({"items": "a|b", "next": "c"}, _followed("ab", "c")),
        ({"items": np.array([1.0, 2.0]), "next": 3}, _followed("12", "3")),
        ({"items": ["a"], "next": "a"}, _followed("a", "a")),
    ),
    bad=(
        ({"items": ["a"]}, "single_item"),
        ({"items": []}, "no_items"),
        ({"items": None}, "missing_items"),
        ({"items": 7}, "items_not_a_list"),
        ({"items": "[a"}, "items_not_json"),
        ({"items": ["a", NAN]}, "missing_item"),
        ({"items": ["a", ["b"]]}, "item_not_a_name"),
        ({"items": ["a", "\ud800"]}, "item_not_a_name"),
        ({"items": ["a"], "next": None}, "missing_item"),
        ({"items": ["a"], "next": NAN}, "missing_item"),
        ({"items": ["a"], "next": []}, "missing_item"),
        ({"items": ["a"], "next": ["b", "c"]}, "several_next_items"),
    ),
    questions=(({"items": ["a", "b"]}, {"items": ["a", "b"]}),),
    blank=({"items": []},),
    duplicates=(_followed("ab", "c"), _followed("ab", "d")),
    strangers=(_followed("ab", "c"), _followed("ba", "c")),
    rows=(
        _followed("a", "b"),
        _followed("abc", "bcd"),
        _followed("dc", "cb"),
        _followed("efgh", "a"),
        _followed("abcdefgh" * 6, "bcdefgha" * 6),
    ),
    unread=(_followed("", "b"), "no_tokens"),
)
