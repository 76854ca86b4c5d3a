"""Text generation: what is learnt of a row, and what its contract does not say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from ftray.errors import ModelError
from ftray.tasks.base import BadRow, Batch, Examples, TaskSetup
from ftray.tasks.metrics import ALONE, Gathered, Totals
from ftray.tasks.schema import Schema
from ftray.tasks.text.language_model.learnt import COUNT, SPANS, learnt_features
from ftray.tasks.text.prompts import prompt_ids
from ftray.tasks.text.text_generation import Options, TextGeneration
from ftray.tasks.text.texts import IDS
from tests.helpers.models.tiny_generator import CHAT, END, make_tokenizer

TASK = TextGeneration()
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "film?"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def examples(tokenizer: Any, prompt: str, completion: str, length: int = 100) -> tuple[str, str]:
    """What is asked and what is learnt, as text."""
    (example,) = made_of(tokenizer, {"prompt": [prompt], "completion": [completion]}, length).each()
    ids, target = example[IDS], example[SPANS][0]
    return tokenizer.decode(ids[:target]), tokenizer.decode(ids[target:])


def made_of(tokenizer: Any, rows: dict[str, list[str]], length: int) -> Examples:
    return TASK.examples(TaskSetup(tokenizer, max_length=length, options=Options()), rows)


def encode(tokenizer: Any, prompts: list[str], length: int = 100) -> list[list[int]]:
    """The token ids of each prompt, each of which has some."""
    found = TASK.encode(TaskSetup(tokenizer, max_length=length), prompts)
    return [example[IDS] for (example,) in found]


def test_the_completion_is_learnt_and_where_it_ends(tokenizer: Any) -> None:
    assert examples(tokenizer, "the film has", " a plot") == ("the film has", f" a plot{END}")


def test_a_text_is_learnt_whole(tokenizer: Any) -> None:
    row = TASK.parse({"text": "the film has a plot"})
    asked, learnt = examples(tokenizer, row["prompt"], row["completion"])
    assert (asked, learnt) == (END, f"the film has a plot{END}")


WORDS = " ".join(["the film has a plot and an actor"] * 6)


@pytest.mark.parametrize("length", [2, 3, 7, 16, 1000])
def test_every_token_of_a_long_text_is_learnt_once_in_windows(tokenizer: Any, length: int) -> None:
    rows = {"prompt": ["", ""], "completion": [WORDS, "the film"]}
    whole = [tokenizer(text)["input_ids"] for text in rows["completion"]]
    whole = [[*ids, tokenizer.eos_token_id] for ids in whole]
    found = made_of(tokenizer, rows, length)
    examples = found.each()
    assert all(len(example[IDS]) <= length for example in examples)
    for place, text in enumerate(whole):
        mine = [i for i, row in enumerate(found.rows) if row == place]
        learnt = [token for i in mine for token in examples[i][IDS][examples[i][SPANS][0] :]]
        assert learnt == text
        for before, after in zip(mine, mine[1:], strict=False):
            asked = examples[after][IDS][: examples[after][SPANS][0]]
            assert asked == examples[before][IDS][-1:]
    assert found.rows == sorted(found.rows)
    assert found.lengths == [len(text) + 1 for text in whole], "and the token it begins with"


def test_a_long_completion_with_a_prompt_is_cut_and_its_length_is_known(tokenizer: Any) -> None:
    rows = {"prompt": ["the film"], "completion": [WORDS]}
    found = made_of(tokenizer, rows, 8)
    assert [len(ids) for ids in found.features[IDS]] == [8]
    asked, learnt = len(tokenizer("the film")["input_ids"]), len(tokenizer(WORDS)["input_ids"])
    assert found.lengths == [asked + learnt + 1]


def test_of_a_chat_the_last_turn_is_learnt(tokenizer: Any) -> None:
    turns = [*ASKED, {"role": "assistant", "content": "wonderful"}]
    for value in (turns, json.dumps(turns), np.array(turns)):
        row = TASK.parse({"messages": value})
        asked, learnt = examples(tokenizer, row["prompt"], row["completion"])
        assert asked == f"<|system|>Be kind.{END}<|user|>film?{END}<|assistant|>"
        assert learnt == f"wonderful{END}"


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 2's: answers are trimmed, and a space stands before them.
INSTRUCTED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' <|end|>' }}{% endif %}{% endfor %}"
)
# As those of models that think: of an earlier answer the beginning is left out.
FORGETTING = (
    "{% for m in messages %}<|{{ m.role }}|>{% if loop.last or m.role != 'assistant' %}"
    "{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = [
    {"role": "user", "content": "film?"},
    {"role": "assistant", "content": "The plot.</think>A good plot. "},
    {"role": "user", "content": "actor?"},
    {"role": "assistant", "content": "dull"},
    {"role": "user", "content": "end?"},
    {"role": "assistant", "content": "wonderful"},
]


def learnt_of(tokenizer: Any, turns: list[dict[str, Any]], length: int = 200) -> list[str]:
    """The texts that are learnt of a chat, all of whose answers are."""
    row = TASK.parse({"messages": turns})
    setup = TaskSetup(tokenizer, max_length=length, options=Options(learn="all"))
    columns = {"prompt": [row["prompt"]], "completion": [row["completion"]]}
    (example,) = TASK.examples(setup, columns).each()
    spans = np.reshape(example[SPANS], (-1, 2))
    assert example[COUNT] == sum(end - start for start, end in spans)
    return [tokenizer.decode(example[IDS][start:end]) for start, end in spans]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(
            CHAT,
            [f"The plot.</think>A good plot. {END}", f"dull{END}", f"wonderful{END}"],
            id="own",
        ),
        pytest.param(
            CHATML,
            [
                "The plot.</think>A good plot. <|im_end|>\n",
                "dull<|im_end|>\n",
                f"wonderful<|im_end|>\n{END}",
            ],
            id="ChatML",
        ),
        pytest.param(
            INSTRUCTED,
            [f"The plot.</think>A good plot. {END}", f"dull {END}", f" wonderful {END}"],
            id="Llama 2",
        ),
        pytest.param(
            FORGETTING, [f"A good plot. {END}", f"dull{END}", f"wonderful{END}"], id="thinking"
        ),
    ],
)
def test_all_answers_of_a_chat_are_learnt_where_asked(template: str, expected: list[str]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    assert learnt_of(tokenizer, TURNS) == expected
    row = TASK.parse({"messages": TURNS})
    assert examples(tokenizer, row["prompt"], row["completion"], 200)[1] == expected[-1]


@pytest.mark.parametrize("none", [0, 0.0, np.int64(0)])
def test_an_answer_of_weight_0_is_read_and_not_learnt(tokenizer: Any, none: Any) -> None:
    weighted = [{**turn, "weight": 1} if turn["role"] == "assistant" else turn for turn in TURNS]
    assert learnt_of(tokenizer, weighted) == learnt_of(tokenizer, TURNS)
    place = TURNS.index({"role": "assistant", "content": "dull"})
    weighted[place]["weight"] = none
    first, _, last = learnt_of(tokenizer, TURNS)
    assert learnt_of(tokenizer, weighted) == [first, last]
    read = (TASK.parse({"messages": turns})["prompt"] for turns in (TURNS, weighted))
    assert len({tuple(ids) for ids in encode(tokenizer, list(read), 200)}) == 1


def test_what_is_learnt_of_a_long_chat_is_cut_with_it(tokenizer: Any) -> None:
    whole = learnt_of(tokenizer, TURNS)
    cut = learnt_of(tokenizer, TURNS, 24)
    assert cut[-1] == whole[-1] and len(cut) > 1
    assert whole[-len(cut)].endswith(cut[0]) and cut[1:] == whole[len(whole) - len(cut) + 1 :]


def test_earlier_answers_are_learnt_as_they_are_written(tokenizer: Any) -> None:
    """The tokens of an earlier answer are those that are learnt when it is the last one."""
    setup = TaskSetup(tokenizer, max_length=200, options=Options(learn="all"))
    found = []
    for turns in (TURNS, TURNS[:4]):
        row = TASK.parse({"messages": turns})
        columns = {"prompt": [row["prompt"]], "completion": [row["completion"]]}
        (example,) = TASK.examples(setup, columns).each()
        start, end = np.reshape(example[SPANS], (-1, 2))[1]
        found.append((example[IDS][:start], example[IDS][start:end]))
    assert found[0] == found[1]


def test_a_chat_is_asked_as_it_is_learnt(tokenizer: Any) -> None:
    row = TASK.parse({"messages": [*ASKED, {"role": "assistant", "content": "wonderful"}]})
    rows = {"prompt": [row["prompt"]], "completion": [row["completion"]]}
    (example,) = made_of(tokenizer, rows, 100).each()
    assert encode(tokenizer, [json.dumps(ASKED)]) == [example[IDS][: example[SPANS][0]]]


@pytest.mark.parametrize("text", ["[1, 2]", "[brackets]", '[{"role": "user"}]', "[]"])
def test_what_only_looks_like_a_chat_is_a_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(prompt_ids(tokenizer, [text])[0]) == text


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        encode(make_tokenizer(chat=False), [json.dumps(ASKED)])


def test_a_template_may_refuse_a_chat() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelError, match="roles must alternate"):
        encode(tokenizer, [json.dumps(ASKED)])


def test_a_template_that_does_not_end_a_turn_still_has_one_end() -> None:
    other = make_tokenizer()
    other.chat_template = (
        "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    )
    asked, learnt = examples(other, json.dumps(ASKED), "fine")
    assert learnt == f"fine{END}"


def test_many_prompts_are_read_as_each_would_be(tokenizer: Any) -> None:
    prompts = ["film", json.dumps(ASKED), "", "[1]", "a film", json.dumps(ASKED[1:])]
    assert prompt_ids(tokenizer, prompts) == [prompt_ids(tokenizer, [p])[0] for p in prompts]


def test_a_long_row_loses_its_beginning_first(tokenizer: Any) -> None:
    asked, learnt = examples(tokenizer, "the film " * 20 + "has", " a plot", 8)
    assert learnt == f" a plot{END}"
    assert ("the film " * 20 + "has").endswith(asked) and len(asked) < 30
    asked, learnt = examples(tokenizer, "the film has", " a plot" * 20, 8)
    assert asked == " has"
    assert (" a plot" * 20).startswith(learnt) and learnt


def test_a_tokenizer_that_closes_what_it_reads_leaves_prompts_open(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    closing = make_tokenizer()
    end = closing.eos_token_id
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    assert closing("film")["input_ids"][-1] == end
    assert prompt_ids(closing, ["film"]) == prompt_ids(tokenizer, ["film"])


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no token that ends a text"):
        examples(tokenizer, "film", " good")


def by_hand(logits: torch.Tensor, ids: list[int], target: int) -> list[float]:
    """The loss of each token that is learnt."""
    shares = logits.double().log_softmax(-1)
    return [-shares[place - 1, ids[place]].item() for place in range(target, len(ids))]


def batch_of(rows: list[list[int]], prompts: list[int]) -> Batch:
    setup = TaskSetup(make_tokenizer(), max_length=100)
    pairs = zip(rows, prompts, strict=True)
    made = [{IDS: ids, **learnt_features([(asked, len(ids))])} for ids, asked in pairs]
    return TASK.collate(setup, made)


def metrics(outputs: dict[str, torch.Tensor], batch: Batch) -> dict[str, Any]:
    totals, places = Totals(), np.arange(len(outputs["logits"]))
    totals.add(places, TASK.metric_state(outputs, batch, TaskSetup(None)))
    return TASK.metrics(totals.gathered(TASK.empty_state(Schema()), places, ALONE), Schema())


def test_losses_and_metrics_are_those_of_the_learnt_tokens() -> None:
    rows, prompts = [[3, 4, 5, 6], [7, 8], [1, 2, 3, 4, 5, 6]], [2, 1, 5]
    batch = batch_of(rows, prompts)
    logits = torch.randn(3, 6, 11, generator=torch.Generator().manual_seed(0))
    expected = [
        by_hand(logits[i], ids, t) for i, (ids, t) in enumerate(zip(rows, prompts, strict=True))
    ]
    losses = TASK.losses({"logits": logits}, batch)
    assert losses.tolist() == pytest.approx([sum(row) for row in expected], rel=1e-5)
    found = metrics({"logits": logits}, batch)
    tokens = [loss for row in expected for loss in row]
    assert found["tokens"] == len(tokens) == 4
    assert found["loss"] == pytest.approx(sum(tokens) / 4, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(sum(tokens) / 4), rel=1e-4)
    right = [logits[0, 1].argmax() == 5, logits[0, 2].argmax() == 6, logits[1, 0].argmax() == 8]
    assert found["accuracy"] == (sum(map(int, right)) + int(logits[2, 4].argmax() == 6)) / 4
    counts = np.array([example[COUNT] for example in batch.host])
    assert TASK.terms({COUNT: counts}.__getitem__, np.array([4, 2, 6])).tolist() == [2, 1, 1]


def test_smoothing_spreads_over_the_vocabulary() -> None:
    batch = batch_of([[3, 4]], [1])
    logits = torch.randn(1, 2, 11, generator=torch.Generator().manual_seed(0))
    shares = logits[0, 0].log_softmax(-1)
    expected = -0.7 * shares[4] - 0.3 * shares.mean()
    losses = TASK.losses({"logits": logits}, batch, smoothing=0.3)
    assert losses[0] == pytest.approx(expected.item())


def test_a_hopeless_model_has_a_perplexity() -> None:
    sums = {"tokens": np.array(1.0), "right": np.array(0.0), "loss": np.array(1e4)}
    assert TASK.metrics(Gathered(sums, {}), Schema())["perplexity"] == math.inf


def test_a_prompt_without_tokens_has_no_examples_and_the_shortest_has_a_token(
    tokenizer: Any,
) -> None:
    assert TASK.encode(TaskSetup(tokenizer, max_length=9), ["", "a"])[0] == []
    assert len(encode(tokenizer, ["a"])[0]) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": " \n\t", "completion": "x"},
        {"prompt": "\u200b\ufeff", "completion": "x"},
        {"prompt": [{"role": "user", "content": " "}], "completion": "x"},
        {
            "messages": [
                {"role": "user", "content": "\u00a0"},
                {"role": "assistant", "content": "x"},
            ]
        },
    ],
)
def test_a_prompt_in_which_nothing_can_be_seen_is_empty(values):
    with pytest.raises(BadRow, match="empty_prompt"):
        TASK.parse(values)
