"""Which models can compute their activations again, and what the user of another is told."""

from __future__ import annotations

import pytest

from ftray.errors import ModelError
from ftray.models.structure.activation_checkpointing import enable_checkpointing
from tests.helpers.models.tiny_networks import tiny_network


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "gpt2", "llama"])
def test_most_families_can(family: str) -> None:
    model = tiny_network(family)
    enable_checkpointing(model)
    assert model.is_gradient_checkpointing


def test_a_model_that_cannot_names_the_key() -> None:
    with pytest.raises(ModelError) as caught:
        enable_checkpointing(tiny_network("mpnet"))
    (found,) = caught.value.problems
    assert (found.key, found.value) == ("train.gradient_checkpointing", "true")
    assert "MPNet" in found.problem
    assert "micro_batch_size" in found.fix
