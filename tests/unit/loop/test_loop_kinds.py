"""Each kind of task in the training loop: ZeRO stages and numbers of workers agree, a resumed run
ends with the same bits, and a trunk cache changes nothing but rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.training.loop_cases import (
    CASES,
    ENDS,
    KIND_STAGES,
    TASK_KINDS,
    TOKEN_KINDS,
    final,
)
from tests.helpers.training.loop_runs import seen

kinds = pytest.mark.parametrize("kind", TASK_KINDS)


@kinds
@pytest.mark.parametrize(("world", "stage"), CASES[1:])
def test_stages_and_numbers_of_workers_agree(root: Path, kind: str, world: int, stage: int) -> None:
    if stage not in KIND_STAGES.get(kind, (0, 1, 2, 3)):
        pytest.skip("the stages are tried with another model of the task")
    ours, alone = seen(root, f"{world}-{kind}-{stage}"), seen(root, f"1-{kind}-0")
    assert not ours.error
    assert ours.losses == pytest.approx(alone.losses, rel=1e-4)
    # BatchNorm's running statistics are averaged over the ranks: evaluation, which uses them,
    # depends on the number of workers, and not on the stage.
    like = seen(root, f"{world}-{kind}-0") if kind == "convolutions" else alone
    assert ours.metrics[-1]["loss"] == pytest.approx(like.metrics[-1]["loss"], rel=1e-3)


@kinds
@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_resumed_run_ends_with_the_same_bits(
    root: Path, kind: str, world: int, stage: int
) -> None:
    whole, resumed = (final(root, f"{world}-{kind}-{stage}{end}") for end in ("", "-resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_tokens_weigh_alike_for_two_workers_and_are_hidden_alike_again(
    root: Path, kind: str
) -> None:
    together, alone = seen(root, f"2-{kind}-0"), seen(root, f"1-{kind}-0")
    assert together.losses == pytest.approx(alone.losses, rel=1e-4)
    for world in (1, 2):
        whole, resumed = (final(root, f"{world}-{kind}-0{end}") for end in ("", "-resumed"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("world", (1, 2))
def test_examples_that_share_rows_train_as_those_that_do_not(root: Path, world: int) -> None:
    plain, packed = (seen(root, f"{of}-0") for of in ("1-completions", f"{world}-packed"))
    assert not packed.error
    assert packed.losses == pytest.approx(plain.losses, rel=1e-4)
    assert packed.metrics[-1]["loss"] == pytest.approx(plain.metrics[-1]["loss"], rel=1e-4)
    cached = seen(root, f"{world}-packed-0-cached")
    assert cached.losses == pytest.approx(plain.losses, rel=1e-4)
    whole, resumed = (final(root, f"{world}-packed-0{end}") for end in ("", "-resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("many", ("", "once-", "twice-"))
@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_loss_that_couples_rows_is_that_of_the_whole_batch(
    root: Path, world: int, stage: int, many: str
) -> None:
    if stage and many == "twice-":
        pytest.skip("with dropout it is computed twice, too")
    ours = seen(root, f"{world}-embeddings-{many}{stage}")
    alone = seen(root, f"1-embeddings-{many and 'once-'}0")
    assert not ours.error and ours.moved
    assert ours.losses == pytest.approx(alone.losses, rel=1e-4)
    assert ours.metrics[-1]["loss"] == pytest.approx(alone.metrics[-1]["loss"], rel=1e-3)


@pytest.mark.parametrize("world", (1, 2))
def test_a_trunk_cache_serves_each_text_of_a_row(root: Path, world: int) -> None:
    plain, cached = (seen(root, f"{world}-embeddings-0{end}") for end in ("", "-cached"))
    assert cached.losses == pytest.approx(plain.losses, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("world", (1, 2))
def test_a_resumed_run_with_coupled_rows_ends_with_the_same_bits(root: Path, world: int) -> None:
    whole, resumed = (final(root, f"{world}-embeddings-0{end}") for end in ("", "-resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@kinds
@pytest.mark.parametrize("depth", (0, 1))
def test_a_trunk_cache_changes_nothing_but_rounding(root: Path, kind: str, depth: int) -> None:
    plain, cached = (seen(root, f"{kind}-top-{depth}{end}") for end in ("", "-cached"))
    assert plain.trainable == cached.trainable
    assert cached.losses == pytest.approx(plain.losses, rel=2e-3, abs=1e-4)
