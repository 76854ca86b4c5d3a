"""Checkpoints on disk: which is the newest whole one, which is the best, which are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ftray.errors import StorageError
from ftray.spec.sections.training import CheckpointSpec
from ftray.store.files.location import Location, locate
from ftray.train.checkpoint import stored
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.checkpoint.parts import Parts
from ftray.train.engine import state
from ftray.train.engine.state import NONE, State
from ftray.train.progress import Progress

FILES = ("manifest.json", "optimizer.safetensors", "progress.json", "trainable.safetensors")


def values(step: int) -> State:
    weight = torch.full((4, 3), float(step))
    return State({"w": weight}, {"w/exp_avg": weight + 1, "w/exp_avg_sq": weight + 2}, {"w": step})


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "checkpoints"))


def keep(folder: Location, ranks: dict[int, float], **spec: Any) -> CheckpointManager:
    """Checkpoints of these steps and ranks, all written."""
    told = CheckpointSpec.model_validate({"every_steps": 1, **spec})
    keeper = CheckpointManager(told, folder, writes=True)
    for step, rank in ranks.items():
        keeper.save(values(step), Progress(step=step, epoch=step // 10), rank)
    keeper.wait()
    return keeper


def steps(folder: Location) -> list[int]:
    return [int(child.name.removeprefix("step-")) for child in folder.children()]


def path_of(folder: Location, step: int) -> Path:
    return Path(folder.path) / f"step-{step:08d}"


def test_no_error_of_the_thread_that_writes_is_lost(folder: Location) -> None:
    broken = State({"w": "no tensor"}, {}, {})  # type: ignore[dict-item]
    keeper = CheckpointManager(CheckpointSpec(), folder, writes=True)
    keeper.save(broken, Progress(step=1), 0.0)
    with pytest.raises((AttributeError, TypeError, ValueError)):
        keeper.wait()


def test_what_was_saved_is_read_back(folder: Location) -> None:
    keep(folder, {7: -1.0})
    found = stored.latest(folder)
    assert found is not None
    assert (found.step, found.epoch, found.rank) == (7, 0, -1.0)
    assert sorted(path.name for path in path_of(folder, 7).iterdir()) == list(FILES)
    local = Path(found.folder.path)
    assert stored.read_progress(local) == Progress(step=7)
    read = state.read(local)
    expected = values(7)
    assert read.ages == expected.ages
    for mine, theirs in ((read.parameters, expected.parameters), (read.moments, expected.moments)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_nothing_is_found_where_nothing_is(folder: Location) -> None:
    assert stored.latest(folder) is None


@pytest.mark.parametrize(
    ("ranks", "kept", "left"),
    [
        ({1: 1.0, 2: -1.0, 3: -1.0, 4: -1.0}, 2, [1, 3, 4]),
        ({1: 1.0, 2: 2.0, 3: -1.0, 4: -1.0}, 2, [2, 3, 4]),
        ({1: 1.0, 2: 2.0, 3: 3.0}, 1, [3]),
        ({1: 1.0, 2: -1.0, 3: -1.0}, 1, [1, 3]),
        ({1: -1.0, 2: -1.0, 3: -1.0}, 1, [3]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    folder: Location, ranks: dict[int, float], kept: int, left: list[int]
) -> None:
    keep(folder, ranks, keep=kept)
    assert steps(folder) == left
    best = max(ranks, key=lambda step: (ranks[step], step))
    assert stored.best(folder).name == f"step-{best:08d}"


def damage(kind: str, target: Path) -> None:
    file = target / "trainable.safetensors"
    match kind:
        case "no manifest":
            (target / "manifest.json").unlink()
        case "half a manifest":
            content = (target / "manifest.json").read_text()
            (target / "manifest.json").write_text(content[: len(content) // 2])
        case "another manifest":
            (target / "manifest.json").write_text("{}")
        case "cut short":
            file.write_bytes(file.read_bytes()[:-5])
        case "missing":
            file.unlink()
        case "one bit":
            content = bytearray(file.read_bytes())
            content[-3] ^= 1
            file.write_bytes(content)


KINDS = ("no manifest", "half a manifest", "another manifest", "cut short", "missing", "one bit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_checkpoint_is_passed_over_with_a_warning(folder: Location, kind: str) -> None:
    keep(folder, {1: 1.0, 2: -1.0})
    damage(kind, path_of(folder, 2))
    told: list[str] = []
    found = stored.latest(folder, told.append)
    assert found is not None
    assert found.step == 1
    (line,) = told
    assert "step-00000002" in line
    assert "the one before it is used" in line


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_are_torn_a_run_starts_again(folder: Location, kind: str) -> None:
    keep(folder, {1: 1.0, 2: -1.0})
    told: list[str] = []
    for step in (1, 2):
        damage(kind, path_of(folder, step))
    assert stored.latest(folder, told.append) is None
    assert len(told) == 2


def test_a_damaged_best_checkpoint_is_not_exported(folder: Location) -> None:
    keep(folder, {1: 1.0, 2: -1.0})
    damage("one bit", path_of(folder, 1))
    with pytest.raises(StorageError, match="step-00000001.*not what was written"):
        stored.best(folder)


def test_a_torn_checkpoint_is_written_again_by_the_resumed_run(folder: Location) -> None:
    keep(folder, {1: 1.0, 2: -1.0})
    damage("cut short", path_of(folder, 2))
    (Path(folder.path) / ".part-left").mkdir()
    keep(folder, {2: -1.0})
    found = stored.latest(folder)
    assert found is not None
    assert found.step == 2
    assert steps(folder) == [1, 2]


def test_checkpoints_are_copied_in_place_of_others(folder: Location) -> None:
    keep(folder, {4: 0.9, 7: 0.1, 8: 0.2}, keep=1)
    other = folder.parent / "other"
    keep(other, {7: 0.5, 9: 0.6})
    stored.copy(folder, other)
    assert steps(other) == steps(folder) == [4, 8]
    newest = stored.latest(other)
    assert newest is not None and newest.step == 8
    assert torch.equal(
        state.read(Path(newest.folder.path)).parameters["w"], values(8).parameters["w"]
    )
    assert stored.best(other).name == stored.best(folder).name


def test_only_one_rank_writes(folder: Location) -> None:
    keeper = CheckpointManager(CheckpointSpec(), folder, writes=False)
    assert keeper.keeps
    assert keeper.share == NONE
    keeper.save(State(), Progress(step=1), 1.0)
    keeper.wait()
    assert steps(folder) == []


def test_a_run_without_a_folder_keeps_nothing() -> None:
    keeper = CheckpointManager(CheckpointSpec(every_steps=1), None, writes=True)
    assert not keeper.keeps
    assert not keeper.due(1)


def test_checkpoints_are_due_by_steps_and_by_the_clock(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("ftray.train.checkpoint.manager.time.monotonic", lambda: now[0])
    keeper = CheckpointManager(CheckpointSpec(every_steps=5, every_minutes=1), folder, writes=True)
    assert [step for step in range(1, 12) if keeper.due(step)] == [5, 10]
    now[0] += 61
    assert keeper.due(11)
    keeper.save(values(11), Progress(step=11), -1.0)
    assert not keeper.due(12)
    keeper.wait()
    neither = CheckpointManager(CheckpointSpec(every_minutes=None), folder, writes=True)
    now[0] += 1e6
    assert not neither.due(5)


def test_a_checkpoint_that_cannot_be_written_is_said(folder: Location) -> None:
    keeper = CheckpointManager(CheckpointSpec(), folder, writes=True)
    Path(folder.path).write_text("a file is in the way")
    keeper.save(values(2), Progress(step=2), -1.0)
    with pytest.raises(StorageError, match="step-00000002: not written"):
        keeper.wait()
    assert Path(folder.path).read_text() == "a file is in the way"


def part_of(folder: Location, part: int, attempt: str = "a") -> CheckpointManager:
    spec = CheckpointSpec.model_validate({"every_steps": 1})
    return CheckpointManager(spec, folder, writes=True, parts=Parts(part, 2, attempt))


def own(part: int, step: int) -> State:
    weight = torch.full((4, 3), float(10 * step + part))
    return State({f"w{part}": weight}, {f"w{part}/exp_avg": weight + 1}, {f"w{part}": step})


def test_each_rank_writes_its_part_and_all_is_read_back(folder: Location) -> None:
    keepers = [part_of(folder, part) for part in (0, 1)]
    assert [keeper.due(1) for keeper in keepers] == [True, False]
    for step in (3, 4, 4):  # the last step of an epoch is saved twice
        for part in (1, 0):
            keepers[part].save(own(part, step), Progress(step=step), 0.0)
    for keeper in keepers:
        keeper.wait()
    assert steps(folder) == [3, 4]
    for step in (3, 4):
        assert not next(c for c in stored.listed(folder) if c.step == step).damage()
        assert not list(path_of(folder, step).glob("part-*"))
        read = state.read(path_of(folder, step))
        assert {n: float(v[0, 0]) for n, v in read.parameters.items()} == {
            "w0": 10.0 * step,
            "w1": 10.0 * step + 1,
        }
        assert read.moments.keys() == {"w0/exp_avg", "w1/exp_avg"}
        assert read.ages == {"w0": step, "w1": step}


def test_a_rank_may_write_the_same_step_again_before_rank_0_has_ended(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rank left for the second time is not swept away with the first."""
    first, second = (part_of(folder, part) for part in (0, 1))
    being_written = path_of(folder, 4) / ".part-00001-a-2.json.12345678.part"
    gathered = Parts.gathered

    def late(parts: Parts, target: Location, number: int, *rest: Any) -> Any:
        found = gathered(parts, target, number, *rest)
        if number == 1:
            being_written.write_text("{")
            second.save(own(1, 4), Progress(step=4), 0.0)
            second.wait()
        return found

    monkeypatch.setattr(Parts, "gathered", late)
    second.save(own(1, 4), Progress(step=4), 0.0)
    second.wait()
    for _ in range(2):
        first.save(own(0, 4), Progress(step=4), 0.0)
        first.wait()
    assert being_written.exists()
    assert steps(folder) == [4]
    assert not next(stored.listed(folder)).damage()
    assert not list(path_of(folder, 4).glob("part-*"))


def test_a_part_that_another_attempt_left_does_not_count(folder: Location) -> None:
    killed = part_of(folder, 1, "before")
    killed.save(own(1, 9), Progress(step=5), 0.0)
    killed.wait()
    assert stored.latest(folder) is None, "the manifest is the last file"
    keepers = [part_of(folder, part, "after") for part in (0, 1)]
    keepers[0].save(own(0, 5), Progress(step=5), 0.0)
    time.sleep(0.5)
    assert stored.latest(folder) is None
    keepers[1].save(own(1, 5), Progress(step=5), 0.0)
    for keeper in keepers:
        keeper.wait()
    read = state.read(path_of(folder, 5))
    assert float(read.parameters["w1"][0, 0]) == 51.0
    assert not list(path_of(folder, 5).glob("part-*"))
