"""Masked language modelling: which tokens are hidden, and the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ftray.errors import ModelError
from ftray.tasks import get_task
from ftray.tasks.text.language_model.masking import hidden, mask_of
from tests.helpers.task_samples import SAMPLES

TASK = get_task("fill-mask")
SAMPLE = SAMPLES["fill-mask"]


def test_tokens_are_hidden_as_in_the_paper() -> None:
    tokenizer = SAMPLE.setup(TASK).processor
    ids = np.array([101, *range(2000, 22_000), 102], dtype=np.int32)
    shown, places = hidden(ids, 0.15, tokenizer, np.random.default_rng(0))
    assert len(places) == 3000 and (np.diff(places) > 0).all()
    assert (np.delete(shown, places) == np.delete(ids, places)).all()
    masked = (shown[places] == tokenizer.mask_token_id).mean()
    kept = (shown[places] == ids[places]).mean()
    assert masked == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.02)
    assert shown[0] == 101 and shown[-1] == 102


@pytest.mark.parametrize(("share", "count"), [(0.15, 1), (0.5, 3), (0.9, 5)])
def test_a_share_of_the_tokens_is_hidden_and_at_least_one(share: float, count: int) -> None:
    setup = SAMPLE.setup(TASK, share=share)
    (example,) = TASK.examples(setup, {"text": ["one two three four five six"]}).each()
    assert len(example["hidden"]) == example["count"] == count


def test_evaluation_hides_the_same_and_training_others() -> None:
    setup = SAMPLE.setup(TASK, max_length=64, dynamic=True)
    rows = {"text": ["a good film and a dull one and another good film"]}
    one, other = (TASK.examples(setup, rows).each()[0] for _ in range(2))
    assert one["hidden"].tolist() == other["hidden"].tolist()
    change = TASK.augmentation(setup, 0.0)
    assert change is not None
    found = {tuple(change(one, np.random.default_rng(seed))["hidden"]) for seed in range(20)}
    assert len(found) > 5 and {len(places) for places in found} == {one["count"]}


def test_no_token_of_a_long_text_is_left_out() -> None:
    setup = SAMPLE.setup(TASK)
    text = "the film was good " * 20
    found = TASK.examples(setup, {"text": [text]}).each()
    truth = [token for each in found for token in each["truth"][1:-1]]
    whole = setup.processor(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert len(found) > 3 and truth == whole


def test_a_row_with_a_mask_token_is_faulty() -> None:
    rows = {"text": ["a [MASK] film", "a film"]}
    assert TASK.examples(SAMPLE.setup(TASK), rows).rejected == {0: "has_mask_token"}


def test_a_tokenizer_without_mask_token_is_refused() -> None:
    tokenizer = type(SAMPLE.setup(TASK).processor)
    bare = tokenizer(vocab={"a": 0, "[UNK]": 1, "[PAD]": 2})
    bare.mask_token = None
    with pytest.raises(ModelError, match="no mask token"):
        mask_of(bare)


@pytest.mark.parametrize("text", ["Rome is the [MASK] of Italy.", "The [MASK] was [MASK] indeed"])
def test_answers_are_those_of_the_pipeline(text: str, tmp_path: Path) -> None:
    from transformers import pipeline

    setup = SAMPLE.setup(TASK, max_length=64)
    torch.manual_seed(5)
    base = SAMPLE.write_base(tmp_path)
    model = TASK.empty_model(base, setup.schema, dtype=torch.float32).eval()
    (windows,) = TASK.encode(setup, [text])
    with torch.inference_mode():
        logits = TASK.forward(model, TASK.collate(setup, windows).inputs)["logits"]
    answered = [[(windows[0], {"logits": logits[0]})]]
    filler = pipeline("fill-mask", model=model, tokenizer=setup.processor)
    for top_k in (None, 2):
        (found,) = TASK.answers(setup, [text], answered, top_k)
        told = filler(text, **({"top_k": top_k} if top_k else {}))
        both = ([found], [told]) if isinstance(told[0], dict) else (found, told)
        for ours, theirs in zip(*both, strict=True):
            shares = [each.pop("score") for each in theirs]
            assert [each.pop("score") for each in ours] == pytest.approx(shares, abs=1e-6)
            assert ours == theirs
