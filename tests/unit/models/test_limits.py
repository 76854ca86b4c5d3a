"""How long a row may be and which token ids there are, by family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from ftray.errors import ModelError
from ftray.models.limits import check_positions, make_room, usable_positions
from ftray.spec.load import override, parse
from ftray.tasks.schema import Schema
from ftray.train.memory.preflight import forecast
from tests.helpers.models.tiny_generator import make_base, make_tokenizer
from tests.helpers.models.tiny_networks import (
    STACKED,
    TWO_STACKS,
    UNSTACKED,
    VOCABULARY,
    tiny_network,
)

PAD = 1
SHIFTED = ("roberta", "camembert", "xlm-roberta", "mpnet", "ibert", "longformer", "data2vec-text")
PLAIN = ("bert", "electra", "distilbert", "gpt2", "albert", "bart", "opt")
UNLIMITED = ("llama", "qwen3", "t5", "modernbert")
OTHER = {
    "longformer": {"attention_window": 4},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "distilbert": {"max_position_embeddings": 64},
    "bart": {"max_position_embeddings": 64},
}


def network(family: str) -> Any:
    if family in {**STACKED, **UNSTACKED, **TWO_STACKS}:
        options: dict[str, Any] = {"pad_token_id": PAD, **OTHER.get(family, {})}
        return tiny_network(family, **options)
    shape = {**STACKED["bert"], **OTHER.get(family, {}), "vocab_size": VOCABULARY}
    special = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **shape, **special)
    return AutoModelForSequenceClassification.from_config(config).eval()


def rows(tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.full((1, tokens), 5)
    ids[:, -1] = 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("family", [*SHIFTED, *PLAIN])
def test_a_row_of_that_length_runs_and_no_longer_one(family: str) -> None:
    model = network(family)
    usable = usable_positions(model, PAD)
    assert usable == (64 - PAD - 1 if family in SHIFTED else 64)
    if family == "longformer":
        return  # pads its rows by itself
    model(**rows(usable))
    with pytest.raises((IndexError, RuntimeError)):
        model(**rows(usable + 1))


@pytest.mark.parametrize("family", UNLIMITED)
def test_without_a_table_of_positions_there_is_no_limit(family: str) -> None:
    assert usable_positions(network(family), PAD) is None


@pytest.mark.parametrize("family", ["roberta", "mpnet", "bart", "llama"])
def test_it_is_known_without_weights(family: str) -> None:
    config = network(family).config
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    assert usable_positions(model, PAD) == usable_positions(network(family), PAD)


def test_rows_that_are_too_long_are_refused_by_name() -> None:
    check_positions(network("roberta"), PAD, "tiny", 62)
    with pytest.raises(ModelError) as caught:
        check_positions(network("roberta"), PAD, "tiny", 63)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("data.max_length", "63")
    assert problem.problem == "tiny takes at most 62 tokens"
    assert "62 or less" in problem.fix


def test_a_plan_is_refused_as_training_is(tmp_path: Path) -> None:
    """By the config alone: there are no weights in the folder."""
    tokenizer = make_tokenizer(chat=False)
    options = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    tiny_network("roberta", **options).config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    usable = 64 - tokenizer.pad_token_id - 1
    data, schema = {"train": "rows.jsonl", "max_length": usable}, Schema(labels=("bad", "good"))
    spec = parse({"name": "run", "model": {"name_or_path": str(tmp_path)}, "data": data})
    forecast(spec, schema)
    longer = override(spec, {"data.max_length": usable + 1})
    with pytest.raises(ModelError, match=f"takes at most {usable} tokens"):
        forecast(longer, schema)


def test_a_plan_says_that_tokens_were_added(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    spec = parse(
        {
            "name": "run",
            "task": "text-generation",
            "model": {"name_or_path": str(base)},
            "data": {"train": "rows.jsonl", "max_length": 16},
        }
    )
    assert "embedding" not in "".join(forecast(spec, Schema()).lines())
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|one|>"])
    tokenizer.save_pretrained(base)
    assert "rows are added for <|one|>, which begin as" in next(forecast(spec, Schema()).lines())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tokens_that_were_added_get_rows(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base", family))
    tokenizer = make_tokenizer()
    before = model.get_input_embeddings().weight.detach().clone()
    assert make_room(model, tokenizer) == ""
    tokenizer.add_tokens(["<|one|>", "<|two|>"])
    note = make_room(model, tokenizer)
    assert "<|one|>, <|two|>" in note
    after = model.get_input_embeddings().weight
    assert after.shape[0] == len(before) + 2 == model.config.vocab_size
    assert torch.equal(after[: len(before)], before)
    assert torch.allclose(after[-1], before.mean(0), atol=1e-6)
    ids = tokenizer("a <|two|> film", return_tensors="pt").input_ids
    assert int(ids.max()) == len(before) + 1
    assert model(input_ids=ids).logits.isfinite().all()
