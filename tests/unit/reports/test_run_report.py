"""The report of a training: a function of what the run's folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftray.models.artifact.groups import GroupMetrics
from ftray.reports.answers.calibration import calibration
from ftray.reports.answers.plots import ScoredLabel
from ftray.reports.record import RunRecord
from ftray.reports.run.timing import spent_by_part
from ftray.reports.test_rows import TestRows, read_test_rows
from ftray.reports.write import FILE, report, write_report
from ftray.spec.load import override
from ftray.tasks.per_label import LabelScore, label_scores
from tests.helpers.training.recorded_runs import (
    BEGAN,
    HOSTILE,
    LABELS,
    Page,
    events,
    info,
    outcomes,
    root_in,
    samples,
    spec,
    trained,
)

RUN = "20260101-000000-aaaaaa"


def test_a_report_has_all_sections_and_shows_hostile_texts_as_they_are(tmp_path: Path) -> None:
    root, rows, of = root_in(tmp_path), outcomes(), spec()
    run = trained(
        root, RUN, of, list(events()), rows=rows, samples=samples(rows), info=info(of, RUN)
    )
    page = Page(report(root, run))
    assert page.headings == [
        "Result: reviews:1",
        "Training",
        "Answers to the test rows",
        "Data",
        "What trained, and where the time went",
        "To repeat it",
    ]
    assert page.plots == [
        "Loss",
        "Validation metrics",
        "Learning rate",
        "Samples a second",
        "Memory of rank 0, GB",
        "Reliability",
        "Share wrong by length",
    ]
    assert page.scripts == 1, "the one that sorts tables"
    assert all(link.startswith("#") for link in page.links)
    assert LABELS[2] in page.text and "</script><script>alert(1)</script>" in page.text
    assert "\u202e" not in page.text and "\x07" not in page.text and "$x_1$" in page.text
    assert "0.7500" in page.text, "a test metric"
    assert "3 rows that another split has" in page.text
    assert "taken for" in page.text and HOSTILE.split()[0] in page.text
    assert "Steps reach 41% of the GPUs' peak" in page.text
    assert "Epoch 2 of 3 was kept: its validation macro-F1, 0.7000, is the highest" in page.text


def test_a_report_has_the_groups_of_the_test_rows(tmp_path: Path) -> None:
    root, of = root_in(tmp_path), override(spec(), {"data.group": "region"})
    groups = [
        GroupMetrics(value=HOSTILE, rows=1234, metrics={"accuracy": 0.125}),
        GroupMetrics(value="north", rows=7, metrics={}),
    ]
    run = trained(root, RUN, of, list(events()), info=info(of, RUN, groups=groups))
    page = Page(report(root, run))
    start = page.text.index("Test rows by region")
    shown = [page.text.index(text, start) for text in (HOSTILE.split()[0], "0.125", "north")]
    assert shown == sorted(shown) and page.scripts == 1


@pytest.mark.parametrize("kept", [0, 1, 3, 20, 200])
def test_a_report_of_a_run_that_was_cut_off_shows_what_there_is(tmp_path: Path, kept: int) -> None:
    root = root_in(tmp_path)
    run = trained(root, RUN, spec(), list(events(1))[:kept])
    page = Page(report(root, run))
    assert "To repeat it" in page.headings and "Answers to the test rows" not in page.headings
    assert ("Loss" in page.plots) == (kept > 3)


@pytest.mark.parametrize("count", [1, 3])
def test_a_report_of_few_test_rows_that_are_all_alike(tmp_path: Path, count: int) -> None:
    root, rows, of = root_in(tmp_path), outcomes(count, skill=50.0), spec()
    rows.lengths[:] = 7
    run = trained(root, RUN, of, (), rows=rows, info=info(of, RUN))
    assert "Confusion" in Page(report(root, run)).text


def test_a_report_of_numbers_has_residuals(tmp_path: Path) -> None:
    of = spec(task="text-regression")
    root, rows, truth = root_in(tmp_path), outcomes(60), np.linspace(-4, 4, 60)
    own = TestRows(
        rows.rows, rows.lengths, rows.losses, rows.errors, rows.scores, truth.tolist(),
        (truth + 0.5).tolist(), None, 60,
    )  # fmt: skip
    run = trained(root, RUN, of, (), rows=own, info=info(of, RUN, labels=()))
    page = Page(report(root, run))
    assert page.plots[:2] == ["Prediction against truth", "Residuals"]
    assert "Confusion" not in page.text


def test_a_task_that_judges_no_answers_shows_losses(tmp_path: Path) -> None:
    of = spec(task="text-generation")
    root, rows = root_in(tmp_path), outcomes(60)
    none = np.full(60, np.nan)
    own = TestRows(
        rows.rows, rows.lengths, rows.losses, none, none, [None] * 60, [None] * 60, None, 60
    )
    kept = samples(own)
    run = trained(root, RUN, of, (), rows=own, samples=kept, info=info(of, RUN, labels=()))
    page = Page(report(root, run))
    assert page.plots == ["Losses of the test rows", "Mean loss by length"]
    assert "Highest losses" in page.text


def test_a_report_that_fails_costs_a_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = root_in(tmp_path)
    run = trained(root, RUN, spec(), list(events(1)))
    assert write_report(root, run) == run.location / FILE
    (run.location / "test_rows.parquet").write_text("torn")
    assert write_report(root, run) is None
    assert len(caplog.messages) == 1 and RUN in caplog.messages[0]


def test_test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    root, rows = root_in(tmp_path), outcomes(50)
    run = trained(root, RUN, spec(), (), rows=rows)
    again = read_test_rows(run.location)
    assert again is not None and again.split_rows == 50
    assert (again.truth, again.predicted) == (rows.truth, rows.predicted)
    np.testing.assert_allclose(again.losses, rows.losses, rtol=1e-6)
    np.testing.assert_allclose(again.shares, rows.shares, rtol=1e-6)
    assert read_test_rows(run.location / "other") is None


def test_the_time_is_split_over_stages_and_pauses_do_not_count(tmp_path: Path) -> None:
    once = list(events(1, steps=10))
    later = [{**event, "at": event["at"] + 1000} for event in once]
    found = {part.name: part.seconds for part in spent_by_part([*once, *later], BEGAN + 1010)}
    assert found["encoding the rows"] == pytest.approx(4)
    assert found["loading the base model"] == pytest.approx(6)
    assert found["training: making batches, or waiting for them"] == pytest.approx(0.4)
    assert found["training: forward passes"] == pytest.approx(0.6)
    assert found["training: backward passes"] == pytest.approx(0.8)
    assert found["training: the rest of the steps"] == pytest.approx(0.2)
    assert "training: adding up gradients over the workers" not in found, "one worker"
    assert found["training: evaluation after each epoch"] == pytest.approx(1.6)
    assert sum(found.values()) < 25, "not the thousand seconds between"


def test_of_an_older_run_the_time_without_a_batch_is_known() -> None:
    older = list(events(1, steps=10))
    for event in older:
        if event.pop("phases", None):
            event["waited"] = 0.02
    found = {part.name: part.seconds for part in spent_by_part(older, BEGAN + 10)}
    assert found["training: making batches, or waiting for them"] == pytest.approx(0.2)
    assert found["training: the rest of the steps"] == pytest.approx(0.8)


def test_a_temperature_mends_a_classifier_that_is_too_sure() -> None:
    chance = np.random.default_rng(0)
    truth = chance.integers(0, 3, 3000)
    logits = chance.normal(size=(3000, 3))
    logits[np.arange(3000), truth] += 1.0
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    drawn = np.array([chance.choice(3, p=share) for share in true])
    sharp = true**3 / (true**3).sum(1, keepdims=True)
    found = calibration(sharp, drawn)
    assert found is not None
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.ece > 0.15 and found.scaled_ece < 0.05
    assert calibration(sharp[:49], drawn[:49]) is None


def test_the_interval_of_a_labels_f1_has_the_value_in_it_and_narrows_with_rows() -> None:
    widths = []
    for rows in (5, 50, 500):
        truth = np.repeat([0, 1], rows)
        predicted = np.where(np.arange(2 * rows) % 10 < 2, 1 - truth, truth)
        (first, _) = map(ScoredLabel.of, label_scores(truth, predicted, ("a", "b")))
        assert first.f1[0] < first.score.f1 < first.f1[1]
        widths.append(first.f1[1] - first.f1[0])
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.08
    perfect = ScoredLabel.of(LabelScore("a", 5, 5, 1.0, 1.0, 1.0))
    assert perfect.f1[0] < 0.8 and perfect.f1[1] == pytest.approx(1), (
        "five rows do not prove perfection"
    )
    assert ScoredLabel.of(LabelScore("a", 0, 0, 0.0, 0.0, 0.0)).f1 == (0.0, 1.0)


def test_a_repeated_step_counts_once(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    twice = [*list(events(1))[:20], *list(events(1))]
    record = RunRecord.read(root, trained(root, RUN, spec(), twice))
    assert [step["step"] for step in record.steps] == list(range(1, 31))
