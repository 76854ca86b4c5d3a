"""The report of a sweep: all trials, what decided, and the winner."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftray.reports.record import RunRecord
from ftray.reports.sweep.importance import importance
from ftray.reports.sweep.trials import Trial, slots, trials_of
from ftray.reports.write import report
from tests.helpers.training.recorded_runs import HOSTILE, Page, info, root_in, spec, sweep, trained

RUN = "20260101-000000-aaaaaa"
SPACE = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.unfreeze": {"choice": [0, 2, "all"]},
    "train.batch_size": {"choice": [16, 32]},
}


def tuned(**more: object) -> dict[str, object]:
    return {"tune": {"space": SPACE, "trials": 200, **more}, "train": {"epochs": 20}}


def test_a_sweep_of_200_trials_fits_into_5_mb_and_has_all_of_them(tmp_path: Path) -> None:
    root, of = root_in(tmp_path), spec(**tuned(refit=False, budget={"minutes": 30}))
    run = trained(root, RUN, of, list(sweep(200, 20, HOSTILE)), "tune", info=info(of, RUN))
    html = report(root, run)
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    assert page.headings[:3] == ["Trials", "Keys", "Winner"]
    assert html.count('class="spark"') == 200
    assert {"Trials over time", "All keys at once", "learning_rate", "unfreeze"} <= {*page.plots}
    assert {"Loss", "Validation metrics"} <= {*page.plots}, "the winner's, as there is no refit"
    assert page.scripts == 1 and "</script><script>alert(1)</script>" in page.text
    assert "Train two." in page.text and "of 30" in page.text


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_sweep_that_was_cut_off_shows_the_trials_that_there_are(
    tmp_path: Path, count: int
) -> None:
    root = root_in(tmp_path)
    cut = list(sweep(3, 2))[: 1 + count]
    run = trained(root, RUN, spec(**tuned()), cut, "tune")
    page = Page(report(root, run))
    assert "Trials" in page.headings
    assert ("Winner" in page.headings) == (count > 1)


def test_the_order_is_that_of_the_search_and_seeds_follow_their_trial(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    run = trained(root, RUN, spec(**tuned()), list(sweep(8, 3)), "tune")
    record = RunRecord.read(root, run)
    found = trials_of(record)
    assert [trial.name for trial in found] == record.of_kind("searched")[-1]["ranking"]
    assert found[0].status == "done" and len(found[0].values) == 3
    assert all(len(t.values) < 3 for t in found if t.status == "stopped")


def test_trials_take_the_lowest_free_slot() -> None:
    times = {"1": (0, 10), "2": (1, 4), "3": (5, 9), "4": (11, 12)}
    trials = [Trial(name, {}, "done", segments=(span,)) for name, span in times.items()]
    assert [(slot, trial.name) for slot, trial, *_ in slots(trials)] == [
        (0, "1"),
        (1, "2"),
        (1, "3"),
        (0, "4"),
    ]


def test_the_key_that_decides_comes_first(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    run = trained(root, RUN, spec(**tuned()), list(sweep(60, 1)), "tune")
    found = importance(trials_of(RunRecord.read(root, run)), SPACE)
    assert found is not None and found.trials == 60
    assert next(iter(found.shares)) == "train.learning_rate"
    assert found.shares["train.learning_rate"] > 0.7 and found.explained > 0.5
    few = trials_of(RunRecord.read(root, run))[:9]
    assert importance(few, SPACE) is None
