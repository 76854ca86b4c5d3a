"""Whether a trial is to end: what one replica counts, and what all of their counts say."""

from __future__ import annotations

import random

import pytest

from ftray.serve.models.canary import Tally, bounds, verdict
from ftray.store.deployments.reports import Counts


def test_nothing_is_said_of_a_few_requests() -> None:
    assert not verdict(Counts(answered=1000), Counts(failed=19))
    assert "20 of its 20 requests failed" in verdict(Counts(answered=1000), Counts(failed=20))


def test_who_fails_most_of_the_time_is_ended_with_nothing_to_compare() -> None:
    assert verdict(Counts(), Counts(failed=40))
    assert not verdict(Counts(), Counts(answered=30, failed=10))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3])
def test_as_good_a_version_is_hardly_ever_ended_although_one_looks_all_the_time(
    share: float,
) -> None:
    ended = 0
    for seed in range(25):
        ended += _ends(random.Random(seed), share, share, 1000) < 1000
    assert ended <= 1


def test_a_worse_version_is_ended_the_sooner_the_worse_it_is() -> None:
    bad, worse = (_ends(random.Random(1), 0.01, share, 5000) for share in (0.2, 0.6))
    assert 20 <= worse < bad < 1000


def _ends(chance: random.Random, current: float, tried: float, most: int) -> int:
    """After how many requests to each a trial ends, at most so many."""
    counts = {False: Counts(), True: Counts()}
    for number in range(most):
        for side, share in ((False, current), (True, tried)):
            failed = int(chance.random() < share)
            counts[side] += Counts(answered=1 - failed, failed=failed)
        if number % 10 == 0 and verdict(counts[False], counts[True]):
            return number
    return most


def test_bounds_hold_what_was_seen_and_close_in() -> None:
    assert bounds(0, 0) == (0.0, 1.0)
    for hits, of in ((0, 50), (50, 50), (7, 50), (140, 1000)):
        least, most = bounds(hits, of)
        assert least <= hits / of <= most
    assert bounds(140, 1000)[1] < bounds(7, 50)[1] < bounds(1, 7)[1]


def test_a_replica_that_is_slow_for_both_versions_ends_no_trial() -> None:
    quick, slow = Tally("t"), Tally("t")
    for number in range(2000):
        noise = 1 + (number % 7) / 10
        for tally, seconds in ((quick, 0.01), (slow, 0.2)):
            tally.answered(False, seconds * noise)
            tally.answered(True, seconds * noise)
    counts = [quick.counts, slow.counts]
    assert not verdict(
        sum((c.current for c in counts), Counts()), sum((c.tried for c in counts), Counts())
    )


def test_slow_answers_of_one_replica_of_forty_end_no_trial_and_those_of_all_do() -> None:
    """The trial's version has a cold cache at one of them."""

    def told(slow_replicas: int) -> str:
        current, tried = Counts(), Counts()
        for replica in range(40):
            tally = Tally("t")
            for _ in range(60):
                tally.answered(True, 0.5 if replica < slow_replicas else 0.03)
                tally.answered(False, 0.03)
            current, tried = (
                current + tally.counts.current,
                tried + tally.counts.tried,
            )
        return verdict(current, tried)

    assert not told(1)
    assert "2400 of 2400 of its answers were slow" in told(40)


def test_answers_on_trial_from_before_the_baseline_count_too() -> None:
    tally = Tally("t")
    for _ in range(100):
        tally.answered(True, 0.5)
    assert tally.counts.tried.timed == 0, "what is slow is not known yet"
    for _ in range(50):
        tally.answered(False, 0.03)
    assert (tally.counts.tried.timed, tally.counts.tried.slow) == (100, 100)
    assert tally.counts.current.timed == 0, "those that tell what is slow are not judged by it"
