"""Text to text: the loss is that of transformers, answers are those of its own search, and the
preflight tells what trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftray.errors import FtrayError, ModelError, SpecError
from ftray.models.inference.measure import InMemory, measure
from ftray.models.limits import check_described
from ftray.models.pretrained import described
from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Batch
from ftray.tasks.metrics import ALONE, Totals
from ftray.tasks.schema import Schema
from ftray.train.memory.dry_run import dry_run
from tests.helpers.models.tiny_networks import TWO_STACKS, tiny_translator
from tests.helpers.task_kinds.bases import encoder_decoder
from tests.helpers.task_samples import SAMPLES, columns_of

TASK = get_task("text2text-generation")
SAMPLE = SAMPLES["text2text-generation"]
VOCABULARY = 30522


def make_setup(**options: Any) -> TaskSetup:
    return SAMPLE.setup(TASK, **options)


def make_model(family: str = "t5") -> Any:
    start = 0 if family == "t5" else 102
    special = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
    return tiny_translator(family, vocab_size=VOCABULARY, **special, decoder_start_token_id=start)


def make_batch(setup: TaskSetup) -> Batch:
    return TASK.collate(setup, TASK.examples(setup, columns_of(SAMPLE.rows)).each())


@pytest.mark.parametrize("family", TWO_STACKS)
def test_the_loss_is_that_of_transformers(family: str) -> None:
    model, batch = make_model(family), make_batch(make_setup())
    losses = TASK.losses(TASK.forward(model, batch.inputs), batch)
    tokens = sum(len(example["target_ids"]) for example in batch.host)
    assert (losses.sum() / tokens).item() == pytest.approx(model(**batch.inputs).loss.item(), 1e-5)


def test_targets_are_cut_to_their_own_length_and_end() -> None:
    setup = make_setup(target_length=5)
    ids = [example["target_ids"] for example in make_batch(setup).host]
    assert max(map(len, ids)) == 5
    assert {row[-1] for row in ids} == {setup.processor.sep_token_id}


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_transformers_own_search(beams: int) -> None:
    setup, model = make_setup(beams=beams, target_length=7), make_model("bart")
    (examples,) = TASK.encode(setup, ["a good movie"])
    inputs = TASK.collate(setup, examples).inputs
    with torch.inference_mode():
        outputs = TASK.infer(model, inputs, setup)
        told = model.generate(**inputs, num_beams=beams, max_new_tokens=7, do_sample=False)
    row = {name: value[0].float() for name, value in outputs.items()}
    (answer,) = TASK.answers(setup, ["a good movie"], [[(examples[0], row)]])
    assert answer == {
        "generated_text": setup.processor.decode(told[0], skip_special_tokens=True).strip()
    }
    assert len(told[0]) <= 1 + 7


def test_an_answer_does_not_depend_on_the_others_of_its_batch() -> None:
    setup, model = make_setup(beams=2), make_model("t5")
    texts = ["dull", "a good movie, and a long one"]
    examples = [example for (example,) in TASK.encode(setup, texts)]
    with torch.inference_mode():
        together = TASK.infer(model, TASK.collate(setup, examples).inputs, setup)
        alone = [TASK.infer(model, TASK.collate(setup, [one]).inputs, setup) for one in examples]
    for row, single in enumerate(alone):
        length = single["written"].shape[1]
        assert together["written"][row, :length].tolist() == single["written"][0].tolist()


def metrics_of(generated: list[str] | None) -> dict[str, Any]:
    """The metrics where the model has written these texts; none were generated for None."""
    setup, batch = make_setup(target_length=16), make_batch(make_setup(target_length=16))
    outputs = {"logits": torch.zeros(*batch.targets["labels"].shape, VOCABULARY)}
    if generated is not None:
        ids = setup.processor(generated, padding=True, return_tensors="pt")["input_ids"]
        outputs["written"] = ids
    totals, places = Totals(), np.arange(len(batch.host))
    totals.add(places, TASK.metric_state(outputs, batch, setup))
    return TASK.metrics(totals.gathered(TASK.empty_state(Schema()), places, ALONE), Schema())


def test_generated_answers_are_scored() -> None:
    setup = make_setup(target_length=16)
    right = [
        setup.processor.decode(example["target_ids"], skip_special_tokens=True)
        for example in make_batch(setup).host
    ]
    found = metrics_of(right)
    assert found["loss"] == pytest.approx(np.log(VOCABULARY), 1e-5)
    assert found["chrf"] == pytest.approx(100) and found["bleu"] == pytest.approx(100)
    assert found["rougeL"] == found["rouge1"] == 1
    half = metrics_of([text.split()[0] for text in right])
    assert 0 < half["chrf"] < 60 and 0 < half["rougeL"] < 1
    nothing = metrics_of(["zzz"] * len(right))
    assert nothing["rouge1"] == nothing["bleu"] == 0
    assert not {"chrf", "rougeL"} & metrics_of(None).keys()


def test_evaluation_judges_each_answer() -> None:
    setup, model = make_setup(), make_model("t5")
    split = InMemory(TASK.examples(setup, columns_of(SAMPLE.rows)), TASK, setup)
    found = measure(model, TASK, setup, split, torch.device("cpu"), 2)
    assert {"loss", "accuracy", "chrf", "bleu", "rougeL"} <= found.metrics.keys()
    assert [judged.truth for judged in found.judged][:2] == ["fad", "ein guter film"]
    assert all(0 <= judged.error <= 1 for judged in found.judged)


def make_spec(base: Path, options: dict[str, Any] | None = None, **train: Any) -> Any:
    return parse(
        {
            "name": "m",
            "task": "text2text-generation",
            "model": {"name_or_path": str(base)},
            "data": {"train": "rows.jsonl", "max_length": 32},
            "task_options": options or {},
            "train": train,
        }
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_decoder(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("options", [{"beams": 0}, {"target_length": 0}, {"beam": 2}])
def test_wrong_options_are_refused(base: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="task_options"):
        make_spec(base, options)


def test_the_preflight_shows_encoder_and_decoder(base: Path) -> None:
    lines = dry_run(make_spec(base, unfreeze=3), Schema())
    assert lines == [
        "4 blocks from stem to head: encoder.block.0 0.00832 M; encoder.block.1 0.00826 M; "
        "decoder.block.0 0.0124 M; decoder.block.1 0.0124 M parameters",
        "  the top 3 train, from encoder.block.1 on; beside them 2 tensors outside of the blocks",
    ]
    with pytest.raises(FtrayError, match="the model has 4 blocks"):
        dry_run(make_spec(base, unfreeze=5), Schema())
    assert dry_run(make_spec(base, unfreeze=3, lora={"rank": 2}), Schema())


def test_a_head_that_has_no_weights_of_its_own_cannot_train_alone(tmp_path: Path) -> None:
    make_model("bart").save_pretrained(tmp_path)
    make_setup().processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="nothing trains") as caught:
        dry_run(make_spec(tmp_path, unfreeze="head"), Schema())
    assert caught.value.problems[0].key == "train.unfreeze"


def test_a_decoder_must_know_how_to_start(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    del config["decoder_start_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        TASK.empty_model(str(tmp_path), Schema())


def test_a_target_that_the_decoder_has_no_positions_for_is_refused(tmp_path: Path) -> None:
    model = make_model("bart")
    most = model.config.max_position_embeddings
    model.save_pretrained(tmp_path)
    make_setup().processor.save_pretrained(tmp_path)
    spec = make_spec(tmp_path, {"target_length": most + 1})
    with described(spec.model) as pretrained, pytest.raises(ModelError) as caught:
        check_described(pretrained, spec, Schema())
    assert caught.value.problems[0].key == "task_options.target_length"
    assert f"at most {most} tokens" in str(caught.value)
    TASK.check_lengths(make_model("t5"), make_setup(target_length=5000))


def test_a_model_without_a_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(SAMPLES["text-classification"].base)))
    make_setup().processor.save_pretrained(tmp_path)
    with pytest.raises(FtrayError) as caught:
        dry_run(make_spec(tmp_path), Schema())
    assert caught.value.problems[0].key == "model.name_or_path"
