"""Samples of the tasks that give a text labels or numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ftray.tasks.base import Row
from tests.helpers.task_samples.sample import BERT, BLANK, LONG, NAN, UNREAD, Sample

LABEL_NAMES = (
    (" good ", "good"),
    (1, "1"),
    (1.0, "1"),
    (0.5, "0.5"),
    (0, "0"),
    (True, "true"),
)
BAD_LABELS = (
    (None, "missing_label"),
    ("", "missing_label"),
    ("  ", "missing_label"),
    (NAN, "missing_label"),
    (["x"], "label_not_a_name"),
    ({"x": 1}, "label_not_a_name"),
)
_BAD_TEXTS = (
    (None, "empty_{}"),
    ("", "empty_{}"),
    (" \n\t ", "empty_{}"),
    (NAN, "empty_{}"),
    (7, "{}_not_a_string"),
    (["a"], "{}_not_a_string"),
)


def bad_texts(row: Row, column: str) -> list[tuple[dict[str, Any], str]]:
    return [({**row, column: value}, kind.format(column)) for value, kind in _BAD_TEXTS]


TEXT_CLASSIFICATION = Sample(
    base=BERT,
    clean=(
        ({"text": "Fine film", "label": "good"}, {"text": "Fine film", "label": "good"}),
        (
            {"text": " kept as it is ", "label": "good"},
            {"text": " kept as it is ", "label": "good"},
        ),
        *(({"text": "a", "label": raw}, {"text": "a", "label": n}) for raw, n in LABEL_NAMES),
        (
            {"text": "a", "text_pair": "b", "label": 1},
            {"text": "a", "text_pair": "b", "label": "1"},
        ),
    ),
    bad=(
        *bad_texts({"label": "good"}, "text"),
        *bad_texts({"text": "a", "label": "good"}, "text_pair"),
        *(({"text": "a", "label": value}, kind) for value, kind in BAD_LABELS),
    ),
    questions=(
        ({"text": "Fine film"}, "Fine film"),
        ({"text": "a", "text_pair": "b"}, {"text": "a", "text_pair": "b"}),
    ),
    blank=(*BLANK, {"text": "a", "text_pair": " "}),
    duplicates=(
        {"text": "A Fine film", "label": "good"},
        {"text": "  a fine\n FILM ", "label": "good"},
        {"text": "a fine film", "label": "bad"},
    ),
    strangers=({"text": "a fine film", "label": "good"}, {"text": "a film", "label": "good"}),
    rows=(
        {"text": "dull", "label": "bad"},
        {"text": "a good movie", "label": "good"},
        {"text": "good, then: a movie.", "label": "mixed"},
        {"text": "that was good", "label": "good"},
        {"text": LONG, "label": "bad"},
    ),
    unread=({"text": UNREAD, "label": "good"}, "no_tokens"),
    unlearnable=({"text": "a film", "label": "good"}, {"text": "a movie", "label": "good"}),
    augmenting=({}, 0.5),
)


def _labelled(labels: Any) -> dict[str, Any]:
    return {"text": "a", "labels": labels}


MULTI_LABEL = Sample(
    base=BERT,
    clean=(
        *(
            (_labelled(raw), _labelled(clean))
            for raw, clean in (
                (["b", " a ", "b"], '["a", "b"]'),
                (np.array(["b", "a"]), '["a", "b"]'),
                ('["b", "a"]', '["a", "b"]'),
                ("b, a", '["a", "b"]'),
                ("b;a, c", '["a, c", "b"]'),
                ("b|a; c", '["a; c", "b"]'),
                ("a", '["a"]'),
                ([1, 2.0, True], '["1", "2", "true"]'),
                ([], "[]"),
                ("", "[]"),
                ({"a": 1, "b": "0", "c": True, "d": 0.0, "e": "1"}, '["a", "c", "e"]'),
                ({"a": 0, "b": False}, "[]"),
            )
        ),
        (
            {"text": "a", "text_pair": "b", "labels": "x"},
            {"text": "a", "text_pair": "b", "labels": '["x"]'},
        ),
    ),
    bad=(
        *bad_texts(_labelled(["a"]), "text"),
        *bad_texts({**_labelled(["a"]), "text_pair": "b"}, "text_pair"),
        (_labelled(None), "missing_labels"),
        (_labelled(NAN), "missing_labels"),
        (_labelled(7), "labels_not_a_list"),
        (_labelled("[a, b]"), "labels_not_json"),
        (_labelled([None]), "missing_label"),
        (_labelled([["a"]]), "label_not_a_name"),
        (_labelled({"a": 1, "b": 2}), "label_not_0_or_1"),
        (_labelled({"a": None}), "label_not_0_or_1"),
        (_labelled({"a": "yes"}), "label_not_0_or_1"),
    ),
    questions=(({"text": "Fine film"}, "Fine film"),),
    blank=BLANK,
    duplicates=(
        {"text": "A Fine film", "labels": "[]"},
        {"text": "  a fine\n FILM ", "labels": '["good"]'},
    ),
    strangers=({"text": "a film", "labels": "[]"}, {"text": "film", "labels": "[]"}),
    rows=(
        {"text": "dull", "labels": '["bad"]'},
        {"text": "a good movie", "labels": '["film", "good"]'},
        {"text": "good, then: a movie.", "labels": '["film"]'},
        {"text": "that was", "labels": "[]"},
        {"text": LONG, "labels": '["bad", "film", "long"]'},
    ),
    unread=({"text": UNREAD, "labels": '["good"]'}, "no_tokens"),
    unlearnable=({"text": "a film", "labels": "[]"}, {"text": "a movie", "labels": "[]"}),
    augmenting=({}, 0.5),
)

_PAIR = {"text": "A cat sits.", "text_pair": "A dog sits."}
TEXT_REGRESSION = Sample(
    base=BERT,
    clean=(
        ({"text": "Fine film", "score": 4}, {"text": "Fine film", "score": [4.0]}),
        ({"text": "a", "score": "2.5"}, {"text": "a", "score": [2.5]}),
        ({"text": "a", "score": [1, 2.5]}, {"text": "a", "score": [1.0, 2.5]}),
        ({"text": "a", "score": np.array([1.0, 0.0])}, {"text": "a", "score": [1.0, 0.0]}),
        ({"text": "a", "score": np.float32(0.5)}, {"text": "a", "score": [0.5]}),
        ({**_PAIR, "score": 3.2}, {**_PAIR, "score": [3.2]}),
    ),
    bad=(
        *bad_texts({"score": 1}, "text"),
        *bad_texts({"text": "a", "score": 1}, "text_pair"),
        ({"text": "a", "score": None}, "missing_score"),
        ({"text": "a", "score": NAN}, "missing_score"),
        ({"text": "a", "score": " "}, "missing_score"),
        ({"text": "a", "score": []}, "missing_score"),
        ({"text": "a", "score": "good"}, "score_not_a_number"),
        ({"text": "a", "score": True}, "score_not_a_number"),
        ({"text": "a", "score": float("inf")}, "score_not_a_number"),
        ({"text": "a", "score": [1.0, None]}, "score_not_a_number"),
        ({"text": "a", "score": {"x": 1}}, "score_not_a_number"),
    ),
    questions=(({"text": "Fine film"}, "Fine film"), (_PAIR, _PAIR)),
    blank=(*BLANK, {"text": "a", "text_pair": " "}, {"text": "", "text_pair": "b"}),
    duplicates=(
        {**_PAIR, "score": [1.0]},
        {"text": "a  CAT sits.", "text_pair": " a dog\nSits.", "score": [2.0]},
    ),
    strangers=({**_PAIR, "score": [1.0]}, {**_PAIR, "text": "A cow sits.", "score": [1.0]}),
    rows=(
        {"text": "a", "text_pair": "b", "score": [0.0, 1.0]},
        {"text": "a cat", "text_pair": "a dog", "score": [2.5, -1.0]},
        {"text": "a cat sits", "text_pair": "here a cat sits", "score": [4.0, 0.5]},
        {"text": "no cat", "text_pair": "a dog", "score": [1.0, 3.0]},
        {"text": LONG, "text_pair": LONG, "score": [5.0, 2.0]},
    ),
    unread=({"text": UNREAD, "text_pair": UNREAD, "score": [1.0, 1.0]}, "no_tokens"),
    unlearnable=({"text": "a", "score": [3.0]}, {"text": "b", "score": [3.0]}),
    augmenting=({}, 0.5),
)
