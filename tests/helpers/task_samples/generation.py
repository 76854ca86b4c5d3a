"""Samples of the tasks that write texts."""

from __future__ import annotations

import json

import numpy as np

from ftray.tasks.base import Row
from tests.helpers.task_samples.labels import bad_texts
from tests.helpers.task_samples.sample import BLANK, LONG, NAN, SMALL, UNREAD, Sample

_TRANSLATED = {"text": "A fine film", "target": "Ein guter Film"}
TEXT2TEXT_GENERATION = Sample(
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
    bad=(*bad_texts(_TRANSLATED, "text"), *bad_texts(_TRANSLATED, "target")),
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
TEXT_GENERATION = Sample(
    base={"model_type": "llama", "num_key_value_heads": 2, **SMALL},
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
        ({"messages": [*ASKED, {**ANSWER, "weight": 0}]}, "no_answer"),
        ({"prompt": "x", "completion": [{**ANSWER, "weight": 0.0}]}, "no_answer"),
        *(
            ({"messages": [*ASKED, {**ANSWER, "weight": weight}]}, "bad_weight")
            for weight in (0.5, 2, -1, "0", True, [1], float("inf"))
        ),
        ({"messages": [{**ASKED[0], "weight": 0}, ANSWER]}, "bad_weight"),
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


PREFERENCE_TUNING = Sample(
    base=TEXT_GENERATION.base,
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
    blank=TEXT_GENERATION.blank,
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
