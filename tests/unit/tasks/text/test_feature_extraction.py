"""Embeddings: losses of the whole batch, metrics of each form of rows, pooling, and what opens a
model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftray.errors import DataError, ModelError, SpecError
from ftray.models.artifact.publish import staged, write_json
from ftray.models.backends.traced import TracedModel
from ftray.models.inference.measure import InMemory, measure
from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.text.retrieval import contrast, nearest
from ftray.tasks.text.retrieval.pooling import KEPT, USAGE, pooled, read_pooling
from tests.helpers.task_samples import SAMPLES, UNREAD, columns_of

TASK = get_task("feature-extraction")
SAMPLE = SAMPLES["feature-extraction"]
SPEC = {
    "name": "n",
    "task": "feature-extraction",
    "model": {"name_or_path": "m"},
    "data": {"train": "rows.csv"},
}


@pytest.fixture
def setup() -> TaskSetup:
    return SAMPLE.setup(TASK)


@pytest.fixture
def model(setup: TaskSetup, tmp_path: Path) -> Any:
    torch.manual_seed(3)
    base = SAMPLE.write_base(tmp_path)
    return TASK.empty_model(base, setup.schema, dtype=torch.float32).eval()


def vectors(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator()), dim=-1)


# Losses


def test_the_negatives_of_a_row_are_the_texts_of_the_others() -> None:
    found = vectors(4, 3, 8)
    texts = torch.arange(12).reshape(4, 3)
    losses = contrast.ranking_losses(found, texts, torch.arange(4))
    candidates = torch.cat([found[:, 1], found[:, 2]])
    for row in range(4):
        scores = found[row, 0] @ candidates.T / contrast.TEMPERATURE
        assert losses[row] == pytest.approx(float(scores.logsumexp(0) - scores[row]), abs=1e-5)


def test_what_may_be_right_is_no_negative() -> None:
    found, apart = vectors(3, 2, 8), torch.arange(6).reshape(3, 2)
    plain = contrast.ranking_losses(found, apart, torch.arange(3))
    same_positive = torch.tensor([[0, 1], [2, 1], [4, 5]])
    without = contrast.ranking_losses(found, same_positive, torch.arange(3))
    same_query = contrast.ranking_losses(found, apart, torch.tensor([7, 7, 4]))
    alone = contrast.ranking_losses(found[[0, 2]], apart[[0, 2]], torch.arange(2))
    for loss in (without, same_query):
        assert loss[0] == pytest.approx(float(alone[0]), rel=1e-5) and loss[0] < plain[0]
        assert loss[2] == pytest.approx(float(plain[2]), rel=1e-5)


def test_texts_with_a_label_are_drawn_together() -> None:
    labels = torch.tensor([1, 1, 2, 2, 3])
    near = torch.eye(8)[[0, 0, 1, 1, 2]]
    far = torch.eye(8)[[0, 1, 0, 1, 2]]
    assert contrast.label_losses(near, labels)[:4].max() < contrast.label_losses(far, labels).max()
    assert contrast.label_losses(far, labels)[4] == 0
    assert contrast.label_losses(far[:1], labels[:1]).tolist() == [0]


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": f"a {i}", "text_pair": f"b {i}", "score": [i / 4]} for i in range(5)],
        [{"text": f"a {i}", "label": str(i % 2)} for i in range(5)],
        [{"text": f"a {i}", "positive": f"b {i}", "negative": f"c {i}"} for i in range(5)],
    ],
    ids=["scores", "labels", "triplets"],
)
def test_each_form_of_rows_is_learnt_and_measured(
    rows: list[dict[str, Any]], setup: TaskSetup, model: Any
) -> None:
    made = TASK.examples(setup, columns_of(tuple(rows)))
    batch = TASK.collate(setup, made.each())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    split = InMemory(made, TASK, setup)
    before = measure(model, TASK, setup, split, torch.device("cpu"), 2).metrics
    for _ in range(20):
        TASK.losses(TASK.forward(model, batch.inputs), batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = measure(model, TASK, setup, split, torch.device("cpu"), 2).metrics
    told = TASK.info.metrics_of(rows[0])
    assert after.keys() == told.keys() and after["loss"] < before["loss"]
    best = next(iter(told))
    assert after[best] == pytest.approx(1, abs=0.15)


def test_a_row_with_a_text_without_tokens_is_rejected(setup: TaskSetup) -> None:
    rows = ({"text": "a", "positive": UNREAD}, {"text": "a", "positive": "b"})
    found = TASK.examples(setup, columns_of(rows))
    assert found.rejected == {0: "no_tokens"} and found.rows == [1, 1]


def test_a_score_is_a_cosine_or_a_share_of_the_full_score() -> None:
    rows = columns_of(({"text": "a", "text_pair": "b", "score": [4.0]},))
    made = TASK.examples(SAMPLE.setup(TASK, full_score=5), rows)
    assert made.features["score"] == [pytest.approx(0.8)] * 2
    with pytest.raises(DataError, match="from -1 to 1") as caught:
        TASK.examples(SAMPLE.setup(TASK), rows)
    assert "task_options.full_score" in str(caught.value)


# Metrics


def test_a_wrong_text_that_is_as_near_comes_first() -> None:
    queries, candidates = np.eye(3)[[0, 0, 0]], np.eye(3)[[0, 0, 1]]
    right = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    places = nearest.first_places(
        queries, candidates, lambda part: (right[part], np.zeros_like(right[part]))
    )
    assert places.tolist() == [2, 3, 0]
    assert nearest.retrieval(places) == {
        "mrr": pytest.approx((1 / 2 + 1 / 3) / 2),
        "recall_at_1": 0.0,
        "recall_at_10": 1.0,
    }


@pytest.mark.parametrize(
    ("columns", "metric"),
    [({}, "mrr"), ({"score": "s"}, "spearman"), ({"label": "c"}, "mrr")],
)
def test_the_metric_is_one_of_the_form_of_rows(columns: dict[str, str], metric: str) -> None:
    spec = {**SPEC, "data": {**SPEC["data"], "columns": columns}}  # type: ignore[dict-item]
    assert parse(spec).train.metric == metric
    other = "mrr" if metric == "spearman" else "spearman"
    with pytest.raises(SpecError, match=f"no metric of {TASK.info.name} with these columns"):
        parse({**spec, "train": {"metric": other}})


# Pooling and folders


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_a_folder_tells_its_pooling(how: str, setup: TaskSetup, model: Any, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    setattr(model.config, KEPT, how)
    texts = ["a good movie", "dull", "many words " * 50]
    inputs = TASK.collate(setup, [example for (example,) in TASK.encode(setup, texts)]).inputs
    with torch.no_grad():
        expected = TASK.forward(model, inputs)["embedding"]
    folder = tmp_path / how
    with staged(model, setup.processor, setup.max_length) as made:
        write_json(made, TASK.extra_files(model, setup))
        made.rename(folder)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    assert np.allclose(theirs, expected.numpy(), atol=1e-5)
    again: Any = TASK.load_model(str(folder), setup.schema, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(TASK.forward(again.eval(), inputs)["embedding"], expected)
    (folder / "config.json").write_text(json.dumps({**model.config.to_dict(), KEPT: None}))
    assert read_pooling(folder) == how
    printed: list[torch.Tensor] = []
    code = USAGE.replace("PATH OF THIS FOLDER", str(folder))
    if how != "mean":
        return
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    exec(code.replace("print(", "printed.append("), {"printed": printed})
    with torch.no_grad():
        (one,), (two,) = TASK.encode(setup, ["A text.", "Another."])
        found = TASK.forward(model, TASK.collate(setup, [one, two]).inputs)["embedding"]
    assert torch.allclose(printed[0], found @ found.T, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_a_graph_gives_the_same_vectors(how: str, setup: TaskSetup, model: Any) -> None:
    setattr(model.config, KEPT, how)
    shapes = [[TASK.dummy(setup, size) for size in sizes] for sizes in ((4, 4), (9,), (9, 2, 5))]
    inputs = [TASK.collate(setup, examples).inputs for examples in shapes]
    traced = TracedModel(model, inputs, TASK.model_outputs)
    (example,) = TASK.encode(setup, ["a good movie"])[0]
    asked = TASK.collate(setup, [example]).inputs
    with torch.no_grad():
        expected, found = (TASK.forward(each, asked)["embedding"] for each in (model, traced))
    assert torch.allclose(found, expected, atol=1e-6)


def test_padding_does_not_change_a_vector() -> None:
    states, mask = torch.randn(1, 5, 4), torch.tensor([[1, 1, 1, 0, 0]])
    for how in ("mean", "cls", "last"):
        short = pooled(states[:, :3], mask[:, :3], how)
        assert torch.allclose(pooled(states, mask, how), short, atol=1e-6)
        assert short.norm() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by max_tokens"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "has a Dense"),
    ],
)
def test_a_model_with_other_parts_is_refused(
    file: str, content: Any, told: str, tmp_path: Path
) -> None:
    write_json(tmp_path, {file: content})
    with pytest.raises(ModelError, match=told):
        read_pooling(tmp_path)


def test_an_encoder_decoder_is_refused(setup: TaskSetup, tmp_path: Path) -> None:
    config = {"model_type": "t5", "d_model": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="encoder-decoder"):
        TASK.empty_model(str(tmp_path), setup.schema)
