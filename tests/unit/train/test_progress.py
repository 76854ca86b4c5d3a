"""Which epoch is the best, when to stop, and what a checkpoint's rank says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ftray.spec.sections.training import TrainSpec
from ftray.train.progress import Progress

NAN, INF = math.nan, math.inf


def spec(metric: str = "accuracy", epochs: int = 10, **stopping: Any) -> TrainSpec:
    tree = {"metric": metric, "epochs": epochs, "early_stopping": stopping or None}
    return TrainSpec.model_validate(tree)


def after(values: list[float], told: TrainSpec) -> Progress:
    """Progress through epochs with these values, until it is over."""
    progress = Progress()
    for value in values:
        if progress.is_over(told):
            break
        progress.finish_epoch(told, {told.metric: value})
    return progress


def ranks(values: list[float], told: TrainSpec) -> list[float]:
    """The rank of each epoch's checkpoint, as reported after it."""
    progress = Progress()
    result = []
    for value in values:
        progress.finish_epoch(told, {told.metric: value})
        result.append(progress.rank())
    return result


@pytest.mark.parametrize(
    ("metric", "values", "best", "epoch"),
    [
        ("accuracy", [0.5, 0.7, 0.6], 0.7, 2),
        ("loss", [0.5, 0.7, 0.4], 0.4, 3),
        ("loss", [0.5, 0.7, 0.6], 0.5, 1),
        ("accuracy", [0.7, 0.7, 0.7], 0.7, 1),
        ("loss", [0.5, 0.5], 0.5, 1),
        ("accuracy", [0.0, 0.0], 0.0, 1),
        ("accuracy", [0.5, 0.5 + 1e-12], 0.5 + 1e-12, 2),
        ("loss", [NAN, 0.9, NAN, 0.8], 0.8, 4),
        ("loss", [0.9, NAN], 0.9, 1),
        ("loss", [INF, 2.0], 2.0, 2),
        ("accuracy", [NAN, 0.1], 0.1, 2),
    ],
)
def test_the_first_epoch_of_the_best_value_is_the_best(
    metric: str, values: list[float], best: float, epoch: int
) -> None:
    progress = after(values, spec(metric))
    assert (progress.best, progress.best_epoch) == (best, epoch)


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("accuracy", [0.5, 0.7, 0.6, 0.7, 0.65]),
        ("accuracy", [0.5, 0.5, 0.5]),
        ("loss", [0.5, 0.4, 0.4, 0.45]),
        ("loss", [NAN, 0.5, NAN]),
        ("f1_macro", [0.1, 0.2, 0.3]),
    ],
)
def test_the_checkpoint_of_the_highest_rank_is_the_best_epochs(
    metric: str, values: list[float]
) -> None:
    told = spec(metric)
    given = ranks(values, told)
    assert given.index(max(given)) + 1 == after(values, told).best_epoch
    assert given.count(max(given)) == 1


def test_a_run_of_nothing_but_nan_keeps_a_checkpoint() -> None:
    progress = after([NAN, NAN, NAN], spec("loss"))
    assert progress.epoch == 3
    assert progress.best is not None
    assert math.isnan(progress.best)
    assert max(ranks([NAN, NAN], spec("loss"))) > 0


@pytest.mark.parametrize(
    ("values", "stopping", "epochs"),
    [
        ([0.5, 0.4, 0.4, 0.9], {"patience": 2}, 3),
        ([0.5, 0.5, 0.9], {"patience": 1}, 2),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], {"patience": 2}, 5),
        ([0.5, 0.505, 0.6], {"patience": 1, "min_delta": 0.01}, 2),
        ([0.5, 0.52, 0.54], {"patience": 1, "min_delta": 0.01}, 3),
        ([0.5, 0.4, 0.3], {"patience": 3}, 3),
        ([NAN, NAN, 0.5], {"patience": 1}, 2),
        ([NAN, 0.5, NAN, 0.6], {"patience": 1}, 3),
    ],
)
def test_early_stopping_waits_its_patience(
    values: list[float], stopping: dict[str, Any], epochs: int
) -> None:
    progress = after(values, spec(**stopping))
    assert progress.epoch == epochs
    assert progress.stopped_early == (epochs < len(values))


def test_early_stopping_knows_that_less_loss_is_better() -> None:
    assert after([0.9, 0.8, 0.7, 0.6], spec("loss", patience=1)).epoch == 4
    assert after([0.6, 0.7, 0.8], spec("loss", patience=1)).epoch == 2


def test_a_small_gain_is_the_best_though_it_does_not_count_as_better() -> None:
    progress = after([0.5, 0.505], spec(patience=1, min_delta=0.01))
    assert progress.best == 0.505
    assert progress.stopped_early


def test_without_early_stopping_all_epochs_run() -> None:
    progress = after([0.5] * 20, spec(epochs=6))
    assert progress.epoch == 6
    assert progress.is_over(spec(epochs=6))
    assert not progress.stopped_early


def test_a_fresh_run_is_not_over() -> None:
    assert not Progress().is_over(spec(epochs=1))


def test_it_goes_on_from_its_json_as_if_uninterrupted() -> None:
    told = spec("loss", patience=2)
    values = [NAN, 0.5, 0.4, 0.45, 0.5]
    progress = Progress()
    for value in values[:3]:
        progress.finish_epoch(told, {"loss": value, "listed": [[1, 0], [0, 1]]})
    resumed = Progress(**json.loads(json.dumps(progress.to_json())))
    for value in values[3:]:
        resumed.finish_epoch(told, {"loss": value})
    whole = after(values, told)
    assert (resumed.best, resumed.best_epoch, resumed.waited) == (0.4, 3, 2)
    assert (resumed.best, resumed.rank()) == (whole.best, whole.rank())
    assert resumed.stopped_early
    assert [entry["epoch"] for entry in resumed.history] == [1, 2, 3, 4, 5]


def test_the_history_has_every_metric_of_every_epoch() -> None:
    progress = Progress(step=7)
    progress.finish_epoch(spec(), {"accuracy": 0.5, "loss": 1.0})
    entry = {"epoch": 1, "step": 7, "accuracy": 0.5, "loss": 1.0, "train_loss": 0.0}
    assert progress.history == [entry]


# (validation losses, training losses, whether the run overfits)
COURSES = [
    ([0.9, 0.5, 0.4], [1.0, 0.5, 0.3], False),
    ([0.5, 0.4, 0.441], [0.6, 0.4, 0.2], True),
    ([0.5, 0.4, 0.439], [0.6, 0.4, 0.2], False),
    ([0.5, 0.4, 0.9, 0.41], [0.6, 0.4, 0.3, 0.2], False),
    ([0.5, 0.4, 0.9], [0.6, 0.4, 0.4], False),
    ([0.5, 0.4, 0.9], [0.6, 0.4, 0.5], False),
    ([0.5], [0.6], False),
    ([0.0, 0.0], [0.6, 0.5], False),
    ([NAN, 0.4, 0.9], [0.6, 0.4, 0.2], True),
    ([0.4, 0.9, NAN], [0.6, 0.4, 0.2], True),
    ([NAN, NAN], [0.6, 0.5], False),
    ([0.4, INF], [0.6, 0.5], False),
]


def along(losses: list[float], train_losses: list[float], told: TrainSpec) -> Progress:
    progress = Progress()
    for loss, train_loss in zip(losses, train_losses, strict=True):
        progress.finish_step(train_loss, rows=8)
        progress.finish_epoch(told, {"loss": loss, "f1_macro": 0.5})
    return progress


@pytest.mark.parametrize(("losses", "train_losses", "expected"), COURSES)
def test_a_run_overfits_when_only_the_training_loss_goes_on_falling(
    losses: list[float], train_losses: list[float], expected: bool
) -> None:
    assert (along(losses, train_losses, spec("loss")).overfitting() is not None) == expected


def test_the_warning_says_where_it_began_and_what_would_do() -> None:
    line = along([0.5, 0.4, 0.6], [0.61, 0.41, 0.21], spec("f1_macro")).overfitting() or ""
    assert "from epoch 2 to epoch 3" in line
    assert "0.400 to 0.600" in line and "0.410 to 0.210" in line
    assert "the model kept is that of epoch 1" in line, "by train.metric"
    for key in ("epochs", "early_stopping", "dropout", "label_smoothing"):
        assert f"train.{key}" in line
        assert key in TrainSpec.model_fields


def test_a_run_that_has_not_begun_does_not_overfit() -> None:
    assert Progress().overfitting() is None
