"""Checkpoints before a node is taken away."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ray.train import PreemptionInfo

from ftray.train.distributed.preemption import Notices


@dataclass
class Played:
    """A worker that is told of `info` at `now` (UNIX seconds)."""

    info: PreemptionInfo | None = None
    now: float = 1000.0
    lines: list[str] = field(default_factory=list)

    def notices(self) -> Notices:
        return Notices(self.lines.append, lambda: self.info, lambda: self.now)


def told(node: str, deadline: float | None) -> PreemptionInfo:
    return PreemptionInfo(None if deadline is None else int(1000 * deadline), {node: [1]})


def test_without_a_notice_nothing_is_due() -> None:
    played = Played()
    assert not played.notices().due()
    assert not played.lines


def test_a_checkpoint_is_due_at_once_and_shortly_before_the_node_goes() -> None:
    played = Played()
    notices = played.notices()
    played.info = told("abcdef0123", 1120)
    due = {}
    for second in range(120):
        played.now = 1000.0 + second
        due[second] = notices.due()
    first, last = [second for second, answer in due.items() if answer]
    assert first == 0
    assert 95 < last < 110
    assert played.lines == [
        "node abcdef01 is taken away in 120 s: a checkpoint is saved after this step"
    ]


@pytest.mark.parametrize("deadline", [None, 1030])
def test_a_checkpoint_is_due_once_where_there_is_no_time_for_two(deadline: float | None) -> None:
    played = Played(told("a", deadline))
    notices = played.notices()
    answers = []
    for second in range(40):
        played.now = 1000.0 + second
        answers.append(notices.due())
    assert sum(answers) == 1


def test_each_further_node_is_a_notice_of_its_own() -> None:
    played = Played(told("a", None))
    notices = played.notices()
    assert notices.due()
    played.info = told("b", None)
    assert notices.due()
    assert not notices.due()
    assert len(played.lines) == 2
