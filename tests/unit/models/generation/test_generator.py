"""A trained generator: how it is asked, what it answers, and what proves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftray.errors import ModelError
from ftray.models.generation.generator import Generator
from ftray.models.generation.sampler import Answer
from ftray.models.generation.sampling_params import Message, Sampling
from ftray.models.load import load_model
from ftray.spec.sections.compute import Compute
from ftray.store.files.location import Location, locate
from ftray.tasks.text.texts import IDS
from tests.helpers.models.tiny_generator import GOLDEN, MAX_TOKENS, make_generator, make_tokenizer
from tests.helpers.models.tiny_model import tamper

BF16 = Compute(precision="bf16")
PROMPTS = ["the film has", "a", " ", "wonderful " * 40, "naïve – 日本語 🎬", *GOLDEN]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_generator(tmp_path_factory.mktemp("generator") / "model")


@pytest.fixture(scope="module")
def generator(made: Location) -> Generator:
    found = load_model(made, batch_size=3)
    assert isinstance(found, Generator)
    return found


def outcomes(generator: Generator) -> list[tuple[str, float]]:
    """The text that is written after each of `PROMPTS`, and how sure the generator is of it."""
    found = []
    for outcome in generator.outcomes(PROMPTS):
        assert outcome is not None and outcome.probabilities is None
        assert outcome.columns.keys() == {"prediction", "score"}
        found.append((outcome.columns["prediction"], outcome.columns["score"]))
    return found


def test_a_prompt_without_tokens_has_no_outcome(generator: Generator) -> None:
    none, some = generator.outcomes(["", "a"])
    assert none is None and some is not None


def test_plain_transformers_goes_on_the_same_way(made: Location, generator: Generator) -> None:
    model = AutoModelForCausalLM.from_pretrained(made.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    for prompt, (text, sureness) in zip(PROMPTS, outcomes(generator), strict=True):
        ids = torch.tensor([generator.prompt_ids(prompt)[-generator.context + 1 :]])
        room = min(MAX_TOKENS, generator.context - ids.shape[1])
        whole = model.generate(ids, do_sample=False, max_new_tokens=room)[0, ids.shape[1] :]
        assert text == tokenizer.decode(whole, skip_special_tokens=True)
        assert 0 < sureness <= 1


def test_how_sure_it_is_is_the_mean_of_its_tokens(generator: Generator) -> None:
    (golden,) = generator.golden(["the film has"])
    answer = Answer(generator.prompt_ids("the film has"), Sampling(max_tokens=len(golden.tokens)))
    with generator.inference():
        decoder = generator.decoder()
        decoder.step([answer])
        while len(decoder):
            decoder.step()
    assert tuple(answer.tokens) == golden.tokens
    shares = torch.tensor(answer.logprobs).exp()
    assert torch.allclose(shares, torch.tensor(golden.numbers), atol=1e-4)


def test_answers_do_not_depend_on_who_is_asked_beside_them(
    made: Location, generator: Generator
) -> None:
    alone = load_model(made, batch_size=1)
    assert isinstance(alone, Generator)
    together, single = outcomes(generator), outcomes(alone)
    assert [text for text, _ in together] == [text for text, _ in single]


def test_golden_answers_hold_on_a_copy(made: Location, tmp_path: Path) -> None:
    copy = locate(str(tmp_path / "copy"))
    copy.upload(Path(made.path), last="ftray.json")
    found = load_model(copy)
    found.check_golden()
    assert all(len(item.tokens) == len(item.numbers) > 0 for item in found.info.golden)
    load_model(copy, compute=BF16).check_golden()


@pytest.mark.parametrize("tied", [False, True])
def test_bf16_answers_are_those_of_autocast(tmp_path: Path, tied: bool) -> None:
    folder = make_generator(tmp_path / "model", tie_word_embeddings=tied)
    plain, rounded = load_model(folder), load_model(folder, compute=BF16)
    assert rounded.model.get_input_embeddings().weight.dtype == torch.float32
    inputs = plain.batch([{IDS: [5, 6, 7, 8]}]).inputs
    with plain.inference(), torch.autocast("cpu", torch.bfloat16):
        expected = plain.model(**inputs).logits
    with rounded.inference():
        assert torch.equal(rounded.model(**inputs).logits, expected)
    rounded.check_golden()


def test_other_weights_do_not_give_the_golden_answers(tmp_path: Path) -> None:
    folder = make_generator(tmp_path / "changed")
    tamper(tmp_path / "changed")
    with pytest.raises(ModelError, match="a probability is off by"):
        load_model(folder).check_golden()


def test_a_chat_is_asked_by_the_models_own_template(generator: Generator) -> None:
    turns: tuple[Message, ...] = ({"role": "user", "content": "film?"},)
    ids = generator.prompt_ids(turns)
    assert generator.tokenizer.decode(ids) == "<|user|>film?<|end|><|assistant|>"
    assert generator.prompt_ids((5, 6, 7)) == [5, 6, 7]


def test_the_ends_are_the_tokenizers_and_the_bases(generator: Generator) -> None:
    assert generator.ends == {make_tokenizer().eos_token_id}
    generator.__dict__.pop("ends")
    generator.model.generation_config.eos_token_id = [7, 8]
    assert generator.ends == {7, 8, make_tokenizer().eos_token_id}
    generator.__dict__.pop("ends")
    generator.model.generation_config.eos_token_id = None
    assert generator.ends == {make_tokenizer().eos_token_id}


def test_evaluation_counts_the_completions_tokens(generator: Generator) -> None:
    (golden,) = generator.golden(["the film has"])
    text = generator.tokenizer.decode(golden.tokens)
    rows = {"prompt": ["the film has"] * 3, "completion": [text, "x", "y"]}
    metrics = generator.measure(generator.examples(rows)).metrics
    assert metrics["tokens"] > len(golden.tokens)
    assert 0 < metrics["accuracy"] < 1
