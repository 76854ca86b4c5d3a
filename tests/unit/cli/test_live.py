"""What a command shows of itself: lines that fit, tables that choose columns, no long silence."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from ftray.cli.display.live import LiveLine
from ftray.cli.display.progress import RunDisplay
from ftray.cli.display.sweep_progress import SweepProgress
from ftray.cli.display.table import draw, fitting, headline, wrapped

ID = "20261128-101500-ab12cd"
START = {
    "kind": "start",
    "epoch": 0,
    "step": 0,
    "steps": 60,
    "workers": 1,
    "nodes": 1,
    "trainable_parameters": 3_549_314,
    "total_parameters": 22_713_600,
    "precision": "bf16",
    "trunk": 4,
}


def step(number: int) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": number,
        "steps": 60,
        "epoch": 1 + number // 20,
        "loss": 0.6931,
        "learning_rate": 2e-4,
        "rows": 16,
        "seconds": 0.05,
    }


def epoch(number: int, accuracy: float, best: float) -> dict[str, Any]:
    return {
        "kind": "epoch",
        "epoch": number,
        "step": 20 * number,
        "train_loss": 0.69,
        "loss": 0.68,
        "accuracy": accuracy,
        "f1_macro": accuracy,
        "best": best,
    }


def trial(name: str, status: str, **more: Any) -> dict[str, Any]:
    told = {"metrics": {}, "values": (), "seconds": 0.0, "elapsed": 0.0}
    config = {"train.learning_rate": 2e-4, "train.unfreeze": 2}
    return {"kind": "trial", "id": name, "status": status, "config": config, **told, **more}


def test_parts_are_left_out_from_the_end_and_never_cut() -> None:
    parts = ["step 1/60", "loss 0.6931", "", "ETA 41 s"]
    assert fitting(parts, 80) == "step 1/60  loss 0.6931  ETA 41 s"
    assert fitting(parts, 24) == "step 1/60  loss 0.6931"
    assert fitting(parts, 3) == "step 1/60"


def test_lines_break_between_words_and_paths_stay_whole() -> None:
    path = "/a/long/path/to/the-storage-root/runs/movie-sentiment/" + ID
    lines = wrapped(f"run {ID} in {path}\n  set train.epochs to 3 or fewer, or more rows", 40)
    assert path in [line.strip() for line in lines.splitlines()]
    assert all(len(line) <= 40 or path in line for line in lines.splitlines())
    assert wrapped("", 40) == ""


def test_a_table_drops_columns_before_it_breaks_a_cell() -> None:
    columns = ["run", "name", "state", "took", "metric"]
    rows = [[ID, "movie-sentiment", "done", "1 min 3 s", "f1_macro"]]
    whole = draw(columns, rows, 100)
    assert whole[-1].split("  ")[-1].strip() == "f1_macro"
    narrow = draw(columns, rows, 60, spare=("took",))
    assert all(len(line) <= 60 for line in narrow[:-1])
    assert "took" not in narrow[0] and "state" in narrow[0] and ID in narrow[2]
    assert "no room for" in narrow[-1]
    assert ID in draw(columns, rows, 10)[2], "an id is never cut"


def test_generation_shows_the_loss_that_picked_the_winner() -> None:
    assert headline({"loss": 1.5, "perplexity": 4.4817}) == "loss 1.5000  perplexity 4.4817"


def test_where_there_is_no_terminal_a_run_speaks_every_few_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RunDisplay(log_every=10) as display:
        display.listen({"kind": "stage", "name": "encoding the rows"})
        display.listen(START)
        for number in range(1, 21):
            display.listen(step(number))
        display.listen(epoch(1, 0.8, 0.8))
        display.listen(epoch(2, 0.7, 0.8))
        display.listen({"kind": "stage", "name": "exporting the model"})
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert lines[0] == "encoding the rows …"
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["10/60", "20/60"]
    assert all("loss 0.6931" in s and "samples/s" in s and "learning rate" in s for s in steps)
    assert "epoch 1 was the best" in said


def test_where_there_is_no_terminal_silence_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine(quiet_s=0.2) as line:
        line.stage("training", lambda: ["step 7/60"])
        deadline = time.monotonic() + 30
        said = ""
        while "step 7/60" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().err
    assert "training  step 7/60  (for " in said


def test_a_sweep_tells_what_runs_what_is_best_and_what_is_left() -> None:
    event = {
        "trials": 4,
        "concurrent": 2,
        "metric": "accuracy",
        "mode": "max",
        "budget": {"minutes": 10.0, "worker_hours": None, "workers": 1, "price": None},
    }
    sweep = SweepProgress(event, clock=lambda: 0.0)
    assert sweep.take(trial("1", "running")) == ""
    assert sweep.take(trial("2", "running")) == ""
    sweep.step({"trial": "2", "epoch": 1, "step": 3, "steps": 60})
    assert list(sweep.parts())[:3] == [
        "0 of 4 trials",
        "trial 1 starts",
        "trial 2 epoch 1 step 3/60",
    ]
    paused = trial("1", "waiting", metrics={"best": 0.5379}, values=(0.5,), seconds=35.5)
    line = sweep.take(paused)
    assert "waiting" not in line and "1 epoch in 36 s" in line and "paused" in line
    done = trial("2", "done", metrics={"best": 0.8}, values=(0.8,), seconds=60, elapsed=300.0)
    sweep.take(done)
    parts = list(sweep.parts())
    assert parts[0] == "1 of 4 trials"
    assert "best 0.8000" in parts
    assert "ETA 1 min 30 s" in parts
    assert "budget 50% used" in parts


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, highlight=False)
    line = LiveLine(console=console)
    display = RunDisplay(10, line)
    display.listen(START)
    display.listen(step(1))
    display.listen(epoch(1, 0.81234, 0.81234))
    display.listen({"kind": "warning", "message": "the run overfits: from epoch 1 on " * 6})
    assert len(line.text()) <= width - 10
    plan = {"trials": 12, "concurrent": 2, "metric": "accuracy", "mode": "max", "budget": {}}
    display.listen({"kind": "plan", **plan})
    for number in range(1, 9):
        display.listen(trial(str(number), "running"))
    assert len(line.text()) <= width - 10
    display.listen(trial("1", "failed", error="the loss is nan in step 3 " * 8))
    said = [line for line in file.getvalue().splitlines() if line]
    assert len(said) > 6
    assert max(map(len, said)) <= width
