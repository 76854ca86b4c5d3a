"""A text with nothing in it is refused, and costs nobody else in its batch an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ftray.models.generation.sampling_params import Sampling
from ftray.models.inference.predictor import Predictor
from ftray.models.load import load_model
from ftray.serve.interface import BadPrompt
from ftray.serve.models.loaded_generator import LiveGenerator
from ftray.serve.models.loaded_predictor import LiveModel
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.engine import Engine
from ftray.serve.runners.generation_limits import Capacity
from ftray.spec.sections.serving import Batching
from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import make_model

# BERT's tokenizer drops what it takes for a control, also where a text shows it (private use).
EMPTY = ["", " \n\t", "\u200b\ufeff", "\u0301", "\u3164", "\ue000"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    found = load_model(make_model(tmp_path_factory.mktemp("empty") / "model"))
    assert isinstance(found, Predictor)
    return found


@pytest.mark.parametrize("empty", EMPTY, ids=ascii)
def test_only_the_request_with_an_empty_text_is_refused(predictor: Predictor, empty: str) -> None:
    async def ask() -> list[Any]:
        metrics = Metrics("one")
        engine = Engine(Batching(wait_ms=200), metrics)
        live = LiveModel("name", 1, predictor, metrics, engine)
        asked = [["a fine film", empty, "dull"], ["a fine film", "dull"], [empty]]
        return await asyncio.gather(
            *(live.answer(texts, None) for texts in asked), return_exceptions=True
        )

    wrong, right, single = asyncio.run(ask())
    assert [answer["label"] for answer in right.outputs]
    assert isinstance(wrong, BadPrompt) and isinstance(single, BadPrompt)
    assert wrong.field == "prompt.1" and str(wrong).startswith("of 3 texts number 2: ")
    assert single.field == "prompt" and "nothing in it" in str(single)


@pytest.mark.parametrize("empty", ["", " \n", "\u200b", [{"role": "user", "content": " "}]])
def test_a_prompt_with_nothing_in_it_is_refused(tmp_path: Path, empty: Any) -> None:
    generator: Any = load_model(make_generator(tmp_path / "model"))
    live = LiveGenerator("name", 1, generator, Metrics("one"), Batching(), Capacity(4, 64, 999))
    with pytest.raises(BadPrompt) as caught:
        asyncio.run(live.generate(empty, Sampling()))
    assert (caught.value.field, caught.value.code) == ("prompt", "empty_prompt")
