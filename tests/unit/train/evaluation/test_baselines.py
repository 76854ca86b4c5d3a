"""The linear probe on real and on tiny base models, however many ranks encode the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ftray.data.encoding.encoded import EncodedSplit
from ftray.errors import ModelError, StorageError
from ftray.spec.load import parse
from ftray.store.files.location import locate
from ftray.tasks import get_task
from ftray.tasks.classification import LABEL
from ftray.tasks.schema import Schema
from ftray.train.base import load_base
from ftray.train.distributed.context import DistContext
from ftray.train.evaluation.baselines import Baselines, Encoder, fit_baselines
from ftray.train.orders import BASELINES
from tests.helpers.models.encoded import split_of
from tests.helpers.models.tiny_networks import STACKED, UNSTACKED, tiny_network
from tests.helpers.training.loop_runs import task_setup
from tests.helpers.training.small_runs import MODEL, write_rows

TASK = get_task("text-classification")


class Data:
    """As EncodedDataset."""

    def __init__(self, labels: Sequence[str], **splits: EncodedSplit) -> None:
        self.schema = Schema(labels=tuple(labels))
        self.labels = self.schema.labels
        self.load = splits.__getitem__


def on(rank: int = 0, world: int = 1) -> DistContext:
    return DistContext(rank, world, torch.device("cpu"))


def tiny_rows(
    count: int = 70, labels: int = 3, seed: int = 0, names: Sequence[int] = range(9)
) -> EncodedSplit:
    """Rows that end as BART wants it. names: indices of the labels that rows have."""
    random = np.random.default_rng(seed)
    ids = [np.append(random.integers(5, 97, random.integers(2, 12)), 2) for _ in range(count)]
    return split_of(ids, [names[place] for place in random.integers(0, labels, count)])


def tiny(family: str, ranks: DistContext) -> Any:
    options = {"decoder_start_token_id": 0} if family == "t5" else {}
    return Encoder(tiny_network(family, **options), TASK, task_setup(), ranks)


def features(encoder: Encoder, rows: Any) -> np.ndarray:
    found = list(encoder.features(rows, np.arange(len(rows))))
    order = np.argsort(np.concatenate([places for places, _ in found]))
    return np.concatenate([values for _, values in found])[order]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Any]:
    """MiniLM and sentences with good words or bad ones."""
    file = write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 160)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    labels = ("negative", "positive")
    spec = parse({"name": "probed", "seed": 1, "model": {"name_or_path": MODEL},
                  "data": {"train": str(file), "max_length": 32}})  # fmt: skip
    base = load_base(spec, Schema(labels=labels))
    rows = {name: [line[name] for line in lines] for name in ("text", "label")}
    found = TASK.examples(base.setup, rows).features
    ids, targets = found["input_ids"], found["labels"]
    cut = 110
    data = Data(labels, train=split_of(ids[:cut], targets[:cut]),
                validation=split_of(ids[cut:], targets[cut:]))  # fmt: skip
    return Encoder(base.model, TASK, base.setup, on()), data


def test_the_probe_on_a_real_model_beats_the_majority(real: tuple[Encoder, Any]) -> None:
    encoder, data = real
    fitted = fit_baselines(encoder, data, seed=1)
    assert fitted is not None
    baselines, event = fitted
    assert event["kind"] == "baseline"
    assert (event["rows"], event["majority"]["accuracy"]) == (50, 0.5)
    assert event["majority"]["f1_macro"] == pytest.approx(1 / 3)
    assert event["probe"]["accuracy"] > 0.75
    assert event["probe"]["f1_macro"] > 0.75
    assert 0 < event["seconds"] < 60
    validation = data.load("validation")
    right = baselines.answers(encoder, validation) == validation.column(LABEL)
    assert right.mean() == pytest.approx(event["probe"]["accuracy"])


@pytest.mark.parametrize("family", [*STACKED, *UNSTACKED, "bart", "mbart", "t5"])
def test_every_family_has_features_that_know_no_padding(family: str) -> None:
    rows = tiny_rows(9)
    together = features(tiny(family, on()), rows)
    assert together.ndim == 2 and len(together) == 9
    alone = np.concatenate(
        [
            features(tiny(family, on()), split_of([row["input_ids"]], [0]))
            for row in rows.examples(range(9))
        ]
    )
    assert together == pytest.approx(alone, abs=1e-4)


def test_features_are_the_mean_of_the_last_hidden_state() -> None:
    rows, model = tiny_rows(1), tiny_network("bert")
    ids = torch.tensor(rows.example(0)["input_ids"])[None]
    with torch.no_grad():
        expected = model.bert(ids).last_hidden_state.mean(1)
    assert features(tiny("bert", on()), rows) == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_encode_every_row_once_and_to_the_bit(world: int) -> None:
    rows, chosen = tiny_rows(100), np.arange(0, 100, 2)
    whole = {int(p): f for places, values in tiny("bert", on()).features(rows, chosen)
             for p, f in zip(places, values, strict=True)}  # fmt: skip
    parts: dict[int, np.ndarray] = {}
    for rank in range(world):
        for places, values in tiny("bert", on(rank, world)).features(rows, chosen):
            for place, value in zip(places, values, strict=True):
                assert int(place) not in parts
                parts[int(place)] = value
    assert parts.keys() == whole.keys() == set(range(50))
    assert all(np.array_equal(parts[place], whole[place]) for place in whole)


def fit(train: EncodedSplit, labels: int) -> Baselines:
    data: Any = Data("abcde"[:labels], train=train, validation=tiny_rows(12, labels, seed=1))
    fitted = fit_baselines(tiny("bert", on()), data, seed=1)
    assert fitted is not None
    return fitted[0]


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_the_probe_answers_as_scikit_learn_does(labels: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, other = tiny_rows(80, labels), tiny_rows(60, labels, seed=2)
    known = features(tiny("bert", on()), train).astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(known, train.column(LABEL))
    baselines = fit(train, labels)
    assert baselines.constant == np.bincount(train.column(LABEL)).argmax()
    unseen = features(tiny("bert", on()), other)
    assert np.array_equal(baselines.predict(unseen), model.predict(unseen))
    assert np.array_equal(baselines.answers(tiny("bert", on()), other), model.predict(unseen))


@pytest.mark.parametrize("present", [[1], [0, 2], [0, 2, 3]])
def test_a_label_that_no_row_has_is_never_answered(present: list[int]) -> None:
    train = tiny_rows(60, len(present), names=present)
    answers = fit(train, 5).predict(features(tiny("bert", on()), tiny_rows(200, seed=3)))
    assert set(answers) == set(present)


def test_only_a_sample_of_many_rows_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftray.train.evaluation.baselines._ROWS", {"train": 50, "validation": 5})
    data: Any = Data("abc", train=tiny_rows(300), validation=tiny_rows(30, seed=1))
    encoder = tiny("bert", on())
    first, again, other = (fit_baselines(encoder, data, seed) for seed in (1, 1, 2))
    assert first and again and other
    assert first[1]["rows"] == 5
    assert np.array_equal(first[0].weight, again[0].weight)
    assert not np.array_equal(first[0].weight, other[0].weight)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    fitted = fit(tiny_rows(), 3)
    file = locate(str(tmp_path / "run" / BASELINES))
    fitted.write(file)
    found = Baselines.read(file)
    assert found is not None
    for name, value in vars(fitted).items():
        assert np.array_equal(getattr(found, name), value), name
    assert [path.name for path in (tmp_path / "run").iterdir()] == [BASELINES]


def test_the_file_of_an_older_ftray_is_read(tmp_path: Path) -> None:
    fitted = fit(tiny_rows(), 3)
    values = {name: torch.from_numpy(np.asarray(value)) for name, value in vars(fitted).items()}
    values["majority"] = values.pop("constant")
    del values["picks"]
    file = locate(str(tmp_path / BASELINES))
    file.write_bytes(save(values))
    found = Baselines.read(file)
    assert found is not None
    assert all(np.array_equal(getattr(found, n), value) for n, value in vars(fitted).items())


def test_no_file_is_no_baselines_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    file = locate(str(tmp_path / BASELINES))
    assert Baselines.read(file) is None
    fit(tiny_rows(), 3).write(file)
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"x" * 100):
        file.write_bytes(damaged)
        with pytest.raises(StorageError) as caught:
            Baselines.read(file)
        assert caught.value.problems[0].key == str(file)


def test_a_model_without_hidden_states_is_refused_by_name() -> None:
    model = tiny_network("bert")
    model.base_model_prefix = ""  # as a class of its own that does not name its body
    encoder = Encoder(model, TASK, task_setup(), on())
    with pytest.raises(ModelError, match="train.baselines.*last hidden state.*false"):
        list(encoder.features(tiny_rows(3), np.arange(3)))
