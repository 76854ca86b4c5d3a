"""Answers that share steps are those of each one alone, whoever comes and goes meanwhile."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from ftray.errors import ModelError
from ftray.models.generation import decoder as decoding
from ftray.models.generation import kv_cache as roomy_cache
from ftray.models.generation import sampler as drawing
from ftray.models.generation.decoder import Decoder
from ftray.models.generation.kv_cache import RoomyCache
from ftray.models.generation.sampler import Answer, draw
from ftray.models.generation.sampling_params import Sampling
from tests.helpers.models.tiny_networks import GENERATING, VOCABULARY, tiny_generator, tiny_network

CONTEXT = 64
CASES = [(family, ()) for family in GENERATING] + [
    (family, (("sliding_window", 4),)) for family in ("mistral", "phi3")
]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@cache
def generator(family: str = "llama", options: tuple[tuple[str, Any], ...] = ()) -> Any:
    return tiny_generator(family, **dict(options))


def decoder(model: Any, ends: Sequence[int] = (), context: int = CONTEXT) -> Decoder:
    return Decoder(model, 0, ends, context)


def prompts(lengths: Iterable[int], seed: int = 0) -> list[list[int]]:
    chosen = random.Random(seed)
    return [[chosen.randrange(5, VOCABULARY) for _ in range(length)] for length in lengths]


def written(
    model: Any, answers: Sequence[Answer], ends: Sequence[int] = (), context: int = CONTEXT
) -> list[list[int]]:
    """The tokens of answers that begin together."""
    running = decoder(model, ends, context)
    running.step(answers)
    while len(running):
        running.step()
    return [answer.tokens for answer in answers]


def generated(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What transformers makes of it, without a batch."""
    whole = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
    )
    return whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("chunk", "padding"),
    [(5, 40), *(pytest.param(*cut, marks=pytest.mark.slow) for cut in ((512, math.inf), (20, 0)))],
)
@pytest.mark.parametrize(("family", "options"), CASES)
def test_answers_are_those_of_generate_whoever_comes_and_goes(
    family: str, options: Any, chunk: int, padding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", chunk)
    model, chosen = generator(family, options), random.Random(family)
    asked = [
        Answer(prompt, Sampling(max_tokens=chosen.choice((1, 2, 5, 9))))
        for prompt in prompts((1, 3, 12, 7, 30, 2, 19, 5))
    ]
    running, waiting = Decoder(model, 0, (), CONTEXT, padding), list(asked)
    while waiting or len(running):
        running.step([waiting.pop() for _ in range(min(chosen.choice((0, 0, 1, 3)), len(waiting)))])
    for answer in asked:
        assert answer.tokens == generated(model, list(answer.prompt), len(answer.tokens))
        assert (len(answer.tokens), answer.finish) == (answer.sampling.max_tokens, "length")
    assert len({tuple(answer.tokens[:2]) for answer in asked}) > 4, "the prompts make a difference"


@pytest.mark.parametrize("family", GENERATING)
def test_log_probabilities_are_those_of_one_pass_over_all_tokens(family: str) -> None:
    model, sampling = generator(family), Sampling(max_tokens=9, temperature=1.5, seed=3)
    asked = [Answer(prompt, sampling) for prompt in prompts((1, 14, 6))]
    written(model, asked)
    for answer in asked:
        ids = torch.tensor([[*answer.prompt, *answer.tokens]])
        logits = model(input_ids=ids).logits[0, len(answer.prompt) - 1 : -1].float()
        expected = logits.log_softmax(-1)[torch.arange(9), answer.tokens]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, rtol=0, atol=1e-4)


def test_each_step_gives_one_token_to_all() -> None:
    running = decoder(generator())
    first, second, third = (Answer(p, Sampling(max_tokens=3)) for p in prompts((4, 9, 2)))
    assert running.step() == [] and len(running) == 0
    assert running.step([first]) == [first]
    assert set(running.step([second, third])) == {first, second, third}
    assert set(running.step()) == {first, second, third} and first.finish == "length"
    assert len(running) == 2
    assert set(running.step()) == {second, third} and len(running) == 0
    assert running.step() == []
    assert [len(answer.logprobs) for answer in (first, second, third)] == [3, 3, 3]


def test_one_that_its_owner_ends_leaves_before_the_next_step() -> None:
    running, rest = decoder(generator()), Sampling(max_tokens=6)
    stays, goes = (Answer(prompt, rest) for prompt in prompts((3, 11)))
    never = Answer([5, 6], rest, finish="stop")
    assert running.step([stays, goes, never]) == [stays, goes]
    goes.finish = "stop"
    assert running.step() == [stays]
    while len(running):
        running.step()
    assert (len(goes.tokens), len(never.tokens)) == (1, 0)
    assert stays.tokens == generated(generator(), list(stays.prompt), 6)


def test_one_that_is_ended_during_a_step_stays_ended() -> None:
    """Whoever waits for an answer does so in another thread."""
    model, answer = tiny_generator("llama"), Answer([5, 6], Sampling())
    running = decoder(model)
    running.step([answer])

    def end(*_: object) -> None:
        answer.finish = "stop"

    model.register_forward_hook(end)
    assert running.step() == [answer] and answer.finish == "stop" and len(running) == 0


@pytest.mark.parametrize("at", [0, 2])
def test_an_end_token_ends(at: int) -> None:
    model, (prompt, other) = generator(), prompts((6, 17))
    tokens = generated(model, prompt, 8)
    end = next(token for token in tokens[at:] if tokens.index(token) == at)
    asked = [Answer(ids, Sampling(max_tokens=8)) for ids in (prompt, other)]
    written(model, asked, ends=[end])
    assert asked[0].tokens == tokens[: at + 1] and asked[0].finish == "stop"
    assert asked[1].finish == ("stop" if end in asked[1].tokens else "length")


@pytest.mark.parametrize("limit", [None, 20])
def test_an_answer_ends_where_the_context_does(limit: int | None) -> None:
    asked = [Answer(prompt, Sampling(max_tokens=limit)) for prompt in prompts((4, 9, 15))]
    written(generator(), asked, context=16)
    assert [len(answer.tokens) for answer in asked] == [12, 7, 1]
    assert {answer.finish for answer in asked} == {"length"}


def test_a_seed_gives_the_same_whoever_else_is_there() -> None:
    model = generator()
    alone = {
        (seed, top_p): written(model, [Answer([7, 8, 9], drawn(seed, top_p))])[0]
        for seed in (1, 2)
        for top_p in (0.9, 1.0)
    }
    assert len(set(map(tuple, alone.values()))) == 4
    others = [Answer(p, drawn(None, top_p)) for p in prompts((9, 1, 20)) for top_p in (0.5, 1.0)]
    among = [Answer([7, 8, 9], drawn(*key)) for key in alone]
    greedy = Answer([7, 8, 9], Sampling(max_tokens=12))
    running = decoder(model)
    running.step(others)
    running.step([among[0], greedy])
    running.step(among[1:])
    while len(running):
        running.step()
    assert [answer.tokens for answer in among] == list(alone.values())
    assert greedy.tokens == generated(model, [7, 8, 9], 12)


def drawn(seed: int | None, top_p: float) -> Sampling:
    return Sampling(max_tokens=12, temperature=2.0, top_p=top_p, seed=seed)


def test_without_a_seed_answers_differ() -> None:
    hot = Sampling(max_tokens=12, temperature=5.0)
    assert len(set(map(tuple, written(generator(), [Answer([7], hot) for _ in range(4)])))) == 4


def shares(sampling: Sampling, logits: Sequence[float], draws: int = 500) -> dict[int, float]:
    """How often each token is drawn from these logits."""
    answers = [Answer([1], Sampling(**{**vars(sampling), "seed": n})) for n in range(draws)]
    draw(answers, torch.tensor([logits]).repeat(draws, 1))
    return {
        token: times / draws
        for token, times in Counter(token for a in answers for token in a.tokens).items()
    }


PROBABILITIES = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])
LOGITS = PROBABILITIES.log().tolist()


@pytest.mark.parametrize("likely", [1, 2, 1024])
@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.0, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 3, 4}),
        (0.96, {0, 1, 2, 3, 4}),
        (1.0, {0, 1, 2, 3, 4}),
    ],
)
def test_top_p_keeps_the_nucleus(
    top_p: float, kept: set[int], likely: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "LIKELY", likely)
    found = shares(Sampling(temperature=1.0, top_p=top_p), LOGITS)
    assert set(found) == kept
    total = PROBABILITIES[sorted(kept)].sum().item()
    for token, share in found.items():
        assert share == pytest.approx(PROBABILITIES[token].item() / total, abs=0.07)


def test_temperature_divides_the_logits() -> None:
    expected = torch.softmax(torch.tensor(LOGITS) / 0.5, -1)
    for token, share in shares(Sampling(temperature=0.5), LOGITS).items():
        assert share == pytest.approx(expected[token].item(), abs=0.07)
    assert set(shares(Sampling(temperature=1e-300), LOGITS, 10)) == {1}


def test_what_is_impossible_is_never_drawn() -> None:
    impossible = [-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]
    for top_p in (1.0, 0.99):
        assert set(shares(Sampling(temperature=1.0, top_p=top_p), impossible)) == {1, 3}


def test_penalties_are_taken_off_the_tokens_of_the_answer() -> None:
    def next_of(tokens: list[int], **penalties: Any) -> Answer:
        answer = Answer([1, 1, 1], Sampling(**penalties), tokens=tokens)
        plain = Answer([1], Sampling())
        draw([plain, answer], torch.tensor([[0.0, 3.0, 2.0, 0.0]] * 2))
        assert plain.tokens == [1], "another row has no penalty"
        return answer

    assert next_of([], presence_penalty=2.0).tokens[-1] == 1, "the prompt does not count"
    assert next_of([1, 1], presence_penalty=0.9).tokens[-1] == 1, "once, however often it came"
    assert next_of([1, 1], presence_penalty=1.1).tokens[-1] == 2
    assert next_of([1], frequency_penalty=0.6).tokens[-1] == 1
    assert next_of([1, 1], frequency_penalty=0.6).tokens[-1] == 2, "for each time"
    assert next_of([0], presence_penalty=-4.0).tokens[-1] == 0, "a reward is one too"
    own = torch.tensor([0.0, 3.0, 2.0, 0.0]).log_softmax(-1)[1].item()
    told = next_of([1], frequency_penalty=0.6).logprobs[-1]
    assert told == pytest.approx(own), "the model's own distribution"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_only_the_row_whose_logits_are_no_numbers_fails(wrong: float) -> None:
    model, asked = tiny_generator("llama"), prompts((6, 4, 9, 12))
    expected = [generated(model, prompt, 7) for prompt in asked]
    broken = min(set(range(5, VOCABULARY)) - {t for row in [*asked, *expected] for t in row})
    model.get_input_embeddings().weight[broken] = wrong
    answers = [Answer(prompt, Sampling(max_tokens=7)) for prompt in asked]
    bad = [Answer([5, broken, 6], Sampling(temperature=t)) for t in (0.0, 1.0)]
    running = decoder(model)
    running.step([answers[0], bad[0], answers[1]])
    assert bad[0].finish == "failed" and bad[0].tokens == []
    assert running.step([bad[1]]) and bad[1].finish == "failed"
    # These take the places that the others have left.
    running.step(answers[2:])
    while len(running):
        running.step()
    assert [answer.tokens for answer in answers] == expected
    assert running.step([Answer([broken], Sampling())])[0].finish == "failed" and not len(running)


class Watched:
    """Rows and columns of what a model is given."""

    def __init__(self, model: Any) -> None:
        self.seen: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, __: Any, inputs: Any) -> None:
        self.seen.append(tuple(inputs["input_ids"].shape))


def test_a_long_prompt_is_read_in_chunks_and_the_others_go_on_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 10)
    model = tiny_generator("llama")
    short, long, late = (Answer(p, Sampling(max_tokens=9)) for p in prompts((3, 45, 4)))
    running, watched = decoder(model), Watched(model)
    running.step([short])
    running.step([long])
    running.step([late])
    for _ in range(4):
        running.step()
    assert [len(answer.tokens) for answer in (short, long, late)] == [7, 1, 4]
    assert max(rows * columns for rows, columns in watched.seen) == 10
    while len(running):
        running.step()
    for answer in (short, long, late):
        assert answer.tokens == generated(model, list(answer.prompt), 9)


@pytest.mark.parametrize(("most", "passes"), [(34, 1), (33, 2), (0, 2)])
def test_answers_of_other_lengths_are_computed_apart_where_padding_costs_more(
    most: int, passes: int
) -> None:
    """Two of 4 tokens beside one of 21: 34 places would hold none."""
    model = tiny_generator("llama")
    answers = [Answer(p, Sampling(max_tokens=9)) for p in prompts((2, 20, 2))]
    running, watched = Decoder(model, 0, (), CONTEXT, most), Watched(model)
    running.step([answers[0], answers[2]])
    running.step([answers[1]])
    watched.seen.clear()
    running.step()
    assert len(watched.seen) == passes
    answers[1].finish = "stop"
    watched.seen.clear()
    running.step()
    assert watched.seen == [(2, 1)]


@pytest.mark.parametrize("reading", [True, False])
def test_what_fails_for_one_answer_costs_the_others_nothing(reading: bool) -> None:
    model, asked = tiny_generator("llama"), prompts((6, 4, 9))
    expected = [generated(model, prompt, 5) for prompt in asked]
    answers = [Answer(prompt, Sampling(max_tokens=5)) for prompt in asked]
    bad = asked[1][-1] if reading else expected[1][0]
    others = {t for place in (0, 2) for t in (*asked[place], *expected[place])}
    assert bad not in others and (bad in asked[1]) is reading, "the second answer alone has it"

    def fail(_: Any, __: Any, inputs: Any) -> None:
        if bad in inputs["input_ids"]:
            raise RuntimeError("no memory")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    running = decoder(model)
    running.step(answers)
    while len(running):
        running.step()
    assert [answers[place].tokens for place in (0, 2)] == [expected[0], expected[2]]
    assert answers[1].finish == "failed" and str(answers[1].error) == "no memory"
    assert answers[1].tokens == expected[1][: 0 if reading else 1]


def test_what_fails_for_all_ends_all() -> None:
    model = tiny_generator("llama")
    answers = [Answer(prompt, Sampling(max_tokens=5)) for prompt in prompts((6, 4, 9))]
    running = decoder(model)
    running.step(answers[:2])

    def fail(*_: Any) -> None:
        raise RuntimeError("no device")

    model.register_forward_pre_hook(fail)
    failed = [*running.step(answers[2:])]
    while len(running):
        failed += running.step()
    assert set(failed) == set(answers)
    assert {answer.finish for answer in answers} == {"failed"}


def test_it_runs_in_bf16() -> None:
    model, asked = generator(), prompts((5, 11, 1))
    answers = [Answer(prompt, Sampling(max_tokens=6)) for prompt in asked]
    running = decoder(model)
    with torch.autocast("cpu", torch.bfloat16):
        running.step(answers[:2])
        running.step(answers[2:])
        (batch,) = running._running  # noqa: SLF001
        assert {layer.keys.dtype for layer in batch._cache.layers} == {torch.bfloat16}  # noqa: SLF001
        while len(running):
            running.step()
    assert [len(answer.tokens) for answer in answers] == [6, 6, 6]
    first = torch.tensor([answer.logprobs[0] for answer in answers])
    exact = [model(input_ids=torch.tensor([p])).logits[0, -1].log_softmax(-1).max() for p in asked]
    torch.testing.assert_close(first, torch.stack(exact), rtol=0.1, atol=0.1)


def states(rows: int, columns: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of two blocks: (rows, 2, columns, 3) each."""
    chosen = torch.Generator().manual_seed(seed)
    pairs = torch.randn(2, 2, rows, 2, columns, 3, generator=chosen)
    return [(keys, values) for keys, values in pairs]


def filled(cache: Any, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    for block, (keys, values) in enumerate(pairs):
        cache.update(keys, values, block)
    return cache


@pytest.mark.parametrize("room", [1, 5, 64])
def test_the_roomy_cache_holds_what_a_plain_one_does(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roomy_cache, "LEAST_ROOM", room)
    roomy, plain, chosen = RoomyCache(), DynamicCache(), random.Random(room)
    for step in range(150):
        rows = plain.layers[0].keys.shape[0] if plain.get_seq_length() else 0
        if rows < 2 or chosen.random() < 0.2:
            new = states(chosen.randrange(1, 4), chosen.randrange(1, 9), step)
            roomy.join(filled(DynamicCache(), new))
            joined(plain, new)
        elif chosen.random() < 0.3:
            columns = plain.get_seq_length()
            columns = chosen.randrange(1, columns + 1)
            kept = sorted(chosen.sample(range(rows), chosen.randrange(1, rows)))
            places = [place for place in range(len(kept)) if place not in kept]
            sources = [row for row in kept if row >= len(kept)]
            roomy.keep(len(kept), columns, sources, places)
            order = list(range(len(kept)))
            for place, source in zip(places, sources, strict=True):
                order[place] = source
            plain.batch_select_indices(torch.tensor(order))
            plain.crop(0)
            for layer in plain.layers:
                layer.keys, layer.values = (
                    layer.keys[:, :, -columns:],
                    layer.values[:, :, -columns:],
                )
        else:
            new = states(rows, chosen.choice((1, 1, 1, 4)), step)
            for block, (keys, values) in enumerate(new):
                found, expected = (
                    roomy.update(keys, values, block),
                    plain.update(keys, values, block),
                )
                assert all(map(torch.equal, found, expected))
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1, 0) == plain.get_mask_sizes(1, 0)
        for ours, its in zip(roomy.layers, plain.layers, strict=True):
            assert torch.equal(ours.keys, its.keys) and torch.equal(ours.values, its.values)


def joined(cache: Any, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The plain way: zeros on the left of what is shorter, and all of it copied."""
    if not cache.layers:
        filled(cache, pairs)
        return
    for layer, new in zip(cache.layers, pairs, strict=True):
        columns = max(layer.keys.shape[2], new[0].shape[2])
        layer.keys, layer.values = (
            torch.cat([torch.nn.functional.pad(s, (0, 0, columns - s.shape[2], 0)) for s in both])
            for both in zip((layer.keys, layer.values), new, strict=True)
        )


def test_a_token_copies_nothing_while_there_is_room() -> None:
    cache, plain = RoomyCache(), states(2, 8, 0)
    cache.join(filled(DynamicCache(), plain))
    places = set()
    for step in range(roomy_cache.LEAST_ROOM):
        filled(cache, states(2, 1, step))
        places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1
    cache.keep(1, 3, [], [])
    assert cache.layers[0].keys.untyped_storage().data_ptr() in places, "nor does a row that goes"


@pytest.mark.parametrize(
    "config",
    [
        AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=2, vocab_size=VOCABULARY),
        AutoConfig.for_model("rwkv", hidden_size=16, num_hidden_layers=2, vocab_size=VOCABULARY),
        AutoConfig.for_model("bloom", hidden_size=16, n_layer=2, n_head=2, vocab_size=VOCABULARY),
        AutoConfig.for_model(
            "qwen3_next",
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            intermediate_size=24,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            vocab_size=VOCABULARY,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_keeps_something_else_is_refused(config: Any) -> None:
    with torch.inference_mode(False):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=type(model).__name__):
        decoder(model)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_with_a_decoder_is_refused(family: str) -> None:
    with torch.inference_mode(False):
        model = tiny_network(family)
    with pytest.raises(ModelError, match=type(model).__name__):
        decoder(model)
