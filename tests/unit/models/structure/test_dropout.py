"""train.dropout reaches every dropout of the network that is trained, and no other model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoConfig

from ftray.errors import ModelError
from ftray.models.pretrained import Pretrained
from ftray.spec.schema import ModelSpec
from ftray.tasks import get_task
from ftray.tasks.schema import Schema
from tests.helpers.models.tiny_networks import STACKED, UNSTACKED, tiny_network

WANTED = 0.37
TASK, SCHEMA = get_task("text-classification"), Schema(labels=("a", "b", "c"))


def chances(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Every dropout probability that a module of the network goes by."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            yield name, module.p
        for key, value in vars(module).items():
            if "dropout" in key and isinstance(value, float):
                yield f"{name}.{key}", value


def load(folder: Path, dropout: float | None) -> Any:
    spec = ModelSpec(name_or_path=str(folder))
    return Pretrained(spec, folder).model(TASK, SCHEMA, seed=1, dropout=dropout)


@pytest.mark.parametrize("family", [*STACKED, *UNSTACKED, "bart", "mbart", "t5"])
def test_every_dropout_of_every_family_is_the_one_of_the_spec(family: str, tmp_path: Path) -> None:
    tiny_network(family).save_pretrained(tmp_path)
    found = dict(chances(load(tmp_path, WANTED)))
    assert found
    assert {name: chance for name, chance in found.items() if chance != WANTED} == {}


def test_without_it_the_model_has_its_own(tmp_path: Path) -> None:
    tiny_network("bert", hidden_dropout_prob=0.2, classifier_dropout=0.3).save_pretrained(tmp_path)
    found = dict(chances(load(tmp_path, None)))
    assert found["dropout"] == 0.3
    assert found["bert.embeddings.dropout"] == 0.2


def test_what_the_config_leaves_open_stays_open(tmp_path: Path) -> None:
    tiny_network("bert").save_pretrained(tmp_path)
    config = load(tmp_path, WANTED).config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == WANTED
    assert config.classifier_dropout is None


def test_zero_turns_dropout_off(tmp_path: Path) -> None:
    tiny_network("gpt2").save_pretrained(tmp_path)
    assert set(dict(chances(load(tmp_path, 0.0))).values()) == {0.0}


def test_weights_and_head_are_those_without_it(tmp_path: Path) -> None:
    tiny_network("bert").save_pretrained(tmp_path)
    plain, dropping = load(tmp_path, None).state_dict(), load(tmp_path, WANTED).state_dict()
    assert all(plain[name].equal(dropping[name]) for name in plain)


def test_a_model_without_any_is_refused_by_name(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load(tmp_path, 0.2)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("train.dropout", "0.2")
    assert str(tmp_path) in problem.problem
    assert "train.label_smoothing" in problem.fix
