"""LoRA: adapters train in place of the blocks' own weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.training.loop_cases import CASES, ENDS, WORLDS, final, held
from tests.helpers.training.loop_runs import Seen


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_adapters_learn_alike_however_the_run_is_cut(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    expected = of("1-lora-0")
    assert expected.losses[-1] != pytest.approx(of("1-stage-0").losses[-1], abs=1e-4)
    assert of(f"{world}-lora-{stage}").losses == pytest.approx(expected.losses, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *((f"{world}-lora-{stage}", 3) for world, stage in ENDS),
        *((f"{world}-dora", 3) for world in WORLDS),
        ("1-lora-phases-0", 6),
        ("2-lora-phases-3", 6),
    ],
)
def test_a_resumed_run_of_adapters_ends_the_same(
    root: Path, of: Callable[..., Seen], name: str, step: int
) -> None:
    whole, resumed = of(name), of(f"{name}-resumed")
    assert resumed.losses == whole.losses[step:]
    assert resumed.digest == whole.digest
    last = len(whole.losses)
    one, two = held(root, f"{name}/{last}"), held(root, f"{name}-resumed/{last}")
    assert one.keys() == two.keys()
    assert all(value.equal(two[key]) for key, value in one.items())


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_adapters_and_head_move_and_the_base_stays_as_it_was(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    found, values = of(f"{world}-lora-{stage}"), final(root, f"{world}-lora-{stage}")
    adapters = {name for name in values if ".lora_" in name}
    assert {int(name.split(".")[3]) for name in adapters} == {1, 2}
    head = {n for n in values if n.startswith(("classifier.", "bert.pooler."))}
    assert set(found.moved) == set(found.trainable) == adapters | head
    assert all(values[name].any() for name in adapters), "B has left zero"
    assert set(held(root, f"{world}-lora-{stage}/6")) == adapters | head


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_each_phase_trains_the_adapters_of_its_blocks(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    name = f"{world}-lora-phases-{stage}"
    assert of(name).phases == [0, 3, 6]
    assert of(name).losses == pytest.approx(of("1-lora-phases-0").losses, abs=1e-5)
    blocks = []
    for step in (3, 6, 9):
        names = held(root, f"{name}/{step}")
        assert all(".lora_" in n for n in names if ".layer." in n)
        blocks.append({int(n.split(".")[3]) for n in names if ".layer." in n})
    assert blocks == [set(), {2}, {0, 1, 2}]
    assert not any("embeddings" in n for n in of(name).moved)


@pytest.mark.parametrize("world", WORLDS)
def test_adapters_train_beside_weights_in_four_bits(
    root: Path, of: Callable[..., Seen], world: int
) -> None:
    name = f"{world}-nf4"
    whole, resumed = of(name), of(f"{name}-resumed")
    assert whole.losses == pytest.approx(of("1-nf4").losses, abs=1e-5)
    assert whole.losses == pytest.approx(of("1-lora-0").losses, abs=0.1)
    assert whole.losses != pytest.approx(of("1-lora-0").losses, abs=1e-5)
    assert whole.trainable == of("1-lora-0").trainable
    assert resumed.losses == whole.losses[3:]
    assert resumed.digest == whole.digest
    assert of(f"{name}-cached").losses == pytest.approx(whole.losses, abs=1e-5)
