"""Samples of the tasks that find spans of a text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ftray.tasks.base import Row
from tests.helpers.task_samples.labels import bad_texts
from tests.helpers.task_samples.sample import BERT, BLANK, UNREAD, Sample

_ASKED = {"question": "Who sang?", "context": "It was Ann who sang."}
_TOLD = {"text": ["Ann"], "answer_start": [7]}
_SPAN = json.dumps([{"start": 7, "text": "Ann"}])


def _asked(answers: Any) -> dict[str, Any]:
    return {**_ASKED, "answers": answers}


QUESTION_ANSWERING = Sample(
    base=BERT,
    options={"stride": 4},
    clean=(
        (_asked(_TOLD), _asked(_SPAN)),
        (_asked(json.dumps(_TOLD)), _asked(_SPAN)),
        (_asked([{"text": "Ann", "start": 7}]), _asked(_SPAN)),
        (_asked({"text": np.array(["Ann"]), "answer_start": np.array([7])}), _asked(_SPAN)),
        (_asked({"text": ["Ann"] * 2, "answer_start": [7] * 2}), _asked(_SPAN)),
        (_asked({"text": [], "answer_start": []}), _asked("[]")),
        ({**_ASKED, "answer": "Ann"}, _asked(_SPAN)),
        ({**_ASKED, "answer": None}, _asked("[]")),
        ({**_ASKED, "answer": ""}, _asked("[]")),
    ),
    bad=(
        *bad_texts(_asked(_TOLD), "question"),
        *bad_texts(_asked(_TOLD), "context"),
        (_asked(None), "missing_answers"),
        (_asked("no JSON"), "answers_not_json"),
        (_asked(7), "answers_not_spans"),
        (_asked(["Ann"]), "answers_not_spans"),
        (_asked({"text": "Ann", "answer_start": 7}), "answers_without_text"),
        (_asked({"text": ["Ann"], "answer_start": []}), "answers_without_text"),
        (_asked({"text": ["Ann"], "answer_start": [3]}), "answer_not_there"),
        (_asked({"text": ["Ann"], "answer_start": [-13]}), "answer_not_there"),
        (_asked({"text": [" "], "answer_start": [2]}), "empty_answer"),
        (_asked({"text": ["Ann"], "answer_start": [None]}), "answer_without_start"),
        ({**_ASKED, "answer": "Bob"}, "answer_not_there"),
        ({**_ASKED, "answer": 7}, "answer_not_a_string"),
    ),
    questions=((_ASKED, _ASKED),),
    blank=({"question": " ", "context": "a"}, {"question": "a", "context": ""}),
    duplicates=(
        _asked(_SPAN),
        {**_asked("[]"), "question": "who  SANG?"},
    ),
    strangers=(_asked(_SPAN), {**_asked(_SPAN), "question": "Who sang it?"}),
    rows=(
        {"question": "Who?", "context": "Ann.", "answers": '[{"start": 0, "text": "Ann"}]'},
        _asked(_SPAN),
        {**_asked("[]"), "question": "Who danced?"},
        {
            "question": "What was good?",
            "context": "The film was good.",
            "answers": '[{"start": 0, "text": "The film"}, {"start": 4, "text": "film"}]',
        },
        {
            "question": "Who?",
            "context": "So many words. " * 8 + "Bob.",
            "answers": '[{"start": 120, "text": "Bob"}]',
        },
    ),
    unread=({"question": "Who?", "context": UNREAD, "answers": "[]"}, "no_tokens"),
)

_WORDS = {"text": "Ann Lee lives in Rome.", "tokens": ["Ann", "Lee", "lives", "in", "Rome", "."]}
_PLACES = [[0, 3], [4, 7], [8, 13], [14, 16], [17, 21], [21, 22]]
_BIO = ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
_ENTITIES = [{"start": 17, "end": 21, "label": "LOC"}, {"start": 0, "end": 7, "label": "PER"}]


def _tagged(text: str, words: list[list[int]], tags: list[str]) -> Row:
    return {"text": text, "spans": json.dumps({"words": words, "tags": tags})}


def _joined(*tags: str) -> Row:
    """The clean row of tokens that spaces join."""
    text, places = " ".join(_WORDS["tokens"][: len(tags)]), [*_PLACES[:5], [22, 23]]
    return _tagged(text, places[: len(tags)], list(tags))


def _tokens(tags: Any, tokens: Any = None) -> dict[str, Any]:
    return {"tokens": _WORDS["tokens"][: len(tags)] if tokens is None else tokens, "tags": tags}


def _spans(*spans: Any) -> dict[str, Any]:
    return {"text": _WORDS["text"], "spans": list(spans)}


TOKEN_CLASSIFICATION = Sample(
    base=BERT,
    options={"stride": 4},
    clean=(
        (_tokens(_BIO), _joined(*_BIO)),
        (_tokens(np.array(_BIO), np.array(_WORDS["tokens"])), _joined(*_BIO)),
        (_tokens(json.dumps(_BIO), json.dumps(_WORDS["tokens"])), _joined(*_BIO)),
        (_tokens(" ".join(_BIO), " ".join(_WORDS["tokens"])), _joined(*_BIO)),
        (_tokens(["I-PER", "I-PER", "O"]), _joined("B-PER", "I-PER", "O")),  # IOB1
        (_tokens(["I-PER", "B-PER", "I-LOC"]), _joined("B-PER", "B-PER", "B-LOC")),
        (_tokens(["B-PER", "E-PER", "S-LOC"]), _joined("B-PER", "I-PER", "B-LOC")),  # IOBES
        (_tokens(["S-PER", "I-PER", "O"]), _joined("B-PER", "B-PER", "O")),
        (_tokens(["B-PER", "L-PER", "U-PER"]), _joined("B-PER", "I-PER", "B-PER")),  # BILOU
        (_tokens(["NNP", "PRP$", 3]), _joined("NNP", "PRP$", "3")),
        (_tokens(["B-PER", "I-PER", "O"], ["Ann", " ", "Lee"]), _joined("B-PER", "O")),
        (_spans(*_ENTITIES), _tagged(_WORDS["text"], _PLACES, _BIO)),
        ({**_spans(), "spans": json.dumps(_ENTITIES)}, _tagged(_WORDS["text"], _PLACES, _BIO)),
        (_spans([0, 7, "PER"], [17, 21, "LOC"]), _tagged(_WORDS["text"], _PLACES, _BIO)),
        (_spans([0, 8, "PER"], [16, 21, "LOC"]), _tagged(_WORDS["text"], _PLACES, _BIO)),
        (_spans(), _tagged(_WORDS["text"], _PLACES, ["O"] * 6)),
        (
            _spans([1, 3, "X"], [4, 6, "X"]),
            _tagged(
                _WORDS["text"],
                [[0, 1], [1, 3], [4, 6], [6, 7], *_PLACES[2:]],
                ["O", "B-X", "B-X", *["O"] * 5],
            ),
        ),
    ),
    bad=(
        *bad_texts(_spans(), "text"),
        (_tokens(_BIO, 7), "tokens_not_a_list"),
        ({"tokens": None, "tags": ["O"]}, "empty_tokens"),
        ({"tokens": [], "tags": []}, "empty_tokens"),
        ({"tokens": [" ", ""], "tags": ["O", "O"]}, "empty_tokens"),
        ({"tokens": [1, 2], "tags": ["O", "O"]}, "token_not_a_string"),
        ({"tokens": "['Ann']", "tags": ["O"]}, "tokens_not_json"),
        ({"tokens": ["Ann"], "tags": None}, "missing_tags"),
        ({"tokens": ["Ann"], "tags": 7}, "tags_not_a_list"),
        ({"tokens": ["Ann"], "tags": [None]}, "missing_label"),
        ({"tokens": ["Ann"], "tags": [["O"]]}, "label_not_a_name"),
        ({"tokens": ["Ann", "Lee"], "tags": ["O"]}, "tags_do_not_fit"),
        ({**_spans(), "spans": None}, "missing_spans"),
        ({**_spans(), "spans": "no JSON"}, "spans_not_json"),
        ({**_spans(), "spans": 7}, "spans_not_a_list"),
        (_spans("PER"), "span_not_an_object"),
        (_spans({"end": 3, "label": "PER"}), "span_without_place"),
        (_spans([0, True, "PER"]), "span_without_place"),
        (_spans({"start": 0, "end": 3}), "missing_label"),
        (_spans([0, 23, "PER"]), "span_outside_text"),
        (_spans([-1, 3, "PER"]), "span_outside_text"),
        (_spans([7, 4, "PER"]), "span_outside_text"),
        (_spans([7, 8, "PER"]), "empty_span"),
        (_spans([4, 4, "PER"]), "empty_span"),
        (_spans([0, 7, "PER"], [4, 7, "LOC"]), "overlapping_spans"),
        (_spans([0, 7, "PER"], [0, 7, "LOC"]), "overlapping_spans"),
    ),
    questions=(
        ({"text": _WORDS["text"]}, _WORDS["text"]),
        ({"tokens": _WORDS["tokens"]}, "Ann Lee lives in Rome ."),
    ),
    blank=BLANK,
    duplicates=(_tagged("Ann  Lee", [[0, 3]], ["O"]), _tagged("ann lee ", [[0, 3]], ["B-PER"])),
    strangers=(_tagged("Ann", [[0, 3]], ["O"]), _tagged("Bo", [[0, 2]], ["O"])),
    rows=(
        _tagged("Bo", [[0, 2]], ["B-PER"]),
        _tagged(_WORDS["text"], _PLACES, _BIO),
        _tagged("no one", [[0, 2], [3, 6]], ["O", "O"]),
        _tagged("in Oslo", [[0, 2], [3, 7]], ["O", "B-LOC"]),
        _tagged(
            ("many words " * 20).strip(),
            [
                [place, place + size]
                for at in range(0, 220, 11)
                for place, size in ((at, 4), (at + 5, 5))
            ],
            ["O", "B-LOC"] * 20,
        ),
    ),
    unread=(_tagged(UNREAD, [[0, 1]], ["O"]), "no_tokens"),
    unlearnable=(_tagged("a", [[0, 1]], ["O"]), _tagged("b", [[0, 1]], ["O"])),
)
