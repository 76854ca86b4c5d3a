"""Samples of the tasks that fill, embed and rank texts."""

from __future__ import annotations

import json

from tests.helpers.task_samples.labels import BAD_LABELS, LABEL_NAMES, bad_texts
from tests.helpers.task_samples.sample import BERT, BLANK, LONG, UNREAD, Sample

FILL_MASK = Sample(
    base=BERT,
    options={"dynamic": False},
    clean=(({"text": "Fine film"}, {"text": "Fine film"}),),
    bad=(*bad_texts({}, "text"),),
    questions=(({"text": "Fine [MASK]"}, "Fine [MASK]"),),
    blank=BLANK,
    duplicates=({"text": "A Fine film"}, {"text": "  a fine\n FILM "}),
    strangers=({"text": "a film"}, {"text": "film"}),
    rows=(
        {"text": "dull"},
        {"text": "a good movie"},
        {"text": "good, then: a movie."},
        {"text": LONG},
    ),
    unread=({"text": UNREAD}, "no_tokens"),
    augmenting=({"dynamic": True}, 0.0),
)


FEATURE_EXTRACTION = Sample(
    base=BERT,
    clean=(
        ({"text": "Fine film", "positive": "good"}, {"text": "Fine film", "positive": "good"}),
        (
            {"text": "a", "positive": "b", "negative": "c"},
            {"text": "a", "positive": "b", "negative": "c"},
        ),
        (
            {"text": "a", "text_pair": "b", "score": "0.5"},
            {"text": "a", "text_pair": "b", "score": [0.5]},
        ),
        *(({"text": "a", "label": raw}, {"text": "a", "label": n}) for raw, n in LABEL_NAMES),
    ),
    bad=(
        *bad_texts({"positive": "b"}, "text"),
        *bad_texts({"text": "a"}, "positive"),
        *bad_texts({"text": "a", "positive": "b"}, "negative"),
        *bad_texts({"text": "a", "score": 1}, "text_pair"),
        *(({"text": "a", "label": value}, kind) for value, kind in BAD_LABELS),
        ({"text": "a", "text_pair": "b", "score": None}, "missing_score"),
        ({"text": "a", "text_pair": "b", "score": [1, 0]}, "score_not_a_number"),
    ),
    questions=(({"text": "Fine film"}, "Fine film"),),
    blank=BLANK,
    duplicates=(
        {"text": "A Fine film", "positive": "good"},
        {"text": "  a fine\n FILM ", "positive": "Good"},
    ),
    strangers=({"text": "a film", "positive": "good"}, {"text": "a film", "positive": "bad"}),
    rows=(
        {"text": "dull", "positive": "a boring film"},
        {"text": "a good movie", "positive": "well made"},
        {"text": "who is it?", "positive": "the man from the bank"},
        {"text": "good, then: a movie.", "positive": "the film is fine"},
        {"text": LONG, "positive": "few words"},
    ),
    unread=({"text": UNREAD, "positive": "good"}, "no_tokens"),
    augmenting=({}, 0.5),
)


TEXT_RANKING = Sample(
    base=BERT,
    clean=(
        (
            {"query": "who", "passage": "Ann", "score": "0.5"},
            {"query": "who", "passages": '["Ann"]', "scores": [0.5]},
        ),
        (
            {"query": "who", "passage": "Ann", "score": True},
            {"query": "who", "passages": '["Ann"]', "scores": [1.0]},
        ),
        (
            {"query": "who", "positive": "Ann", "negative": ["Bo", "[x"]},
            {"query": "who", "passages": '["Ann", "Bo", "[x"]', "scores": [1.0, 0.0, 0.0]},
        ),
        (
            {"query": "who", "passages": '["Ann", "Bo"]', "scores": [1, 0]},
            {"query": "who", "passages": '["Ann", "Bo"]', "scores": [1.0, 0.0]},
        ),
    ),
    bad=(
        *bad_texts({"passage": "Ann", "score": 1}, "query"),
        *bad_texts({"query": "who", "score": 1}, "passage"),
        ({"query": "who", "passage": "Ann", "score": None}, "missing_score"),
        ({"query": "who", "passage": "Ann", "score": "good"}, "score_not_a_number"),
        ({"query": "who", "passage": "Ann", "score": [1, 0]}, "score_not_a_number"),
        ({"query": "who", "positive": "Ann", "negative": []}, "empty_negative"),
        ({"query": "who", "positive": "Ann", "negative": None}, "empty_negative"),
        ({"query": "who", "positive": [7], "negative": "Bo"}, "positive_not_a_string"),
        ({"query": "who", "positive": ["a\ud800"], "negative": "Bo"}, "bad_encoding"),
        ({"query": "who", "passages": ["Ann", "Bo"], "scores": [1]}, "scores_differ"),
        ({"query": "who", "passages": ["Ann", " "], "scores": [1, 0]}, "empty_passages"),
    ),
    questions=(
        ({"query": "who", "passage": "Ann"}, {"query": "who", "passages": ["Ann"]}),
        ({"query": "who", "passages": ["Ann", "Bo"]}, {"query": "who", "passages": ["Ann", "Bo"]}),
    ),
    blank=tuple(
        asked
        for text in BLANK
        for asked in (
            {"query": text, "passages": ["Ann"]},
            {"query": "who", "passages": ["Ann", text]},
        )
    ),
    duplicates=(
        {"query": "Who", "passages": '["Ann"]', "scores": [1.0]},
        {"query": " who ", "passages": '["ANN"]', "scores": [0.0]},
    ),
    strangers=(
        {"query": "who", "passages": '["Ann"]', "scores": [1.0]},
        {"query": "who", "passages": '["Bo"]', "scores": [1.0]},
    ),
    rows=(
        {"query": "who", "passages": '["Ann"]', "scores": [1.0]},
        {"query": "who is it", "passages": '["the price is high"]', "scores": [0.0]},
        {"query": "what is the price", "passages": '["the price is low"]', "scores": [1.0]},
        {"query": "what is the price", "passages": '["a good movie"]', "scores": [0.0]},
        {"query": "who is it", "passages": '["the man from the bank"]', "scores": [1.0]},
        {"query": "a film", "passages": json.dumps([LONG]), "scores": [0.25]},
    ),
    unread=({"query": UNREAD, "passages": json.dumps([UNREAD]), "scores": [1.0]}, "no_tokens"),
    augmenting=({}, 0.5),
)
