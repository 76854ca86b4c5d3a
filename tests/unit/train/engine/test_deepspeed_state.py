"""What ftray reads of DeepSpeed under undocumented names, on real engines of each ZeRO stage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ftray.errors import SpecError
from ftray.train.distributed.context import alone
from ftray.train.engine import deepspeed_state

STAGES = (0, 1, 2, 3)
SHARDING = (1, 2, 3)


def make_engine(stage: int, **config: Any) -> Any:
    alone()
    deepspeed = deepspeed_state.import_deepspeed(torch.device("cpu"))
    torch.manual_seed(stage)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters())}]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=0.1),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
            "zero_optimization": {"stage": stage},
            **config,
        },
    )
    return engine


@pytest.fixture
def made() -> Iterator[Callable[..., Any]]:
    engines = []

    def make(stage: int, **config: Any) -> Any:
        engines.append(make_engine(stage, **config))
        return engines[-1]

    linear = nn.functional.linear
    yield make
    for engine in engines:
        deepspeed_state.destroy(engine)
    nn.functional.linear = linear


def train(engine: Any) -> None:
    engine.backward(engine(torch.ones(2, 4)).float().square().sum())
    engine.step()


@pytest.mark.parametrize("stage", STAGES)
def test_each_name_is_there(made: Callable[..., Any], stage: int) -> None:
    engine = made(stage)
    deepspeed_state.check_optimizer(engine)
    assert deepspeed_state.stage(engine) == stage
    train(engine)
    assert not deepspeed_state.overflowed(engine)
    inner = deepspeed_state.torch_optimizer(engine)
    assert isinstance(inner, torch.optim.AdamW)
    parameters: list[Any] = list(engine.module.parameters())
    assert all(deepspeed_state.is_partitioned(p) == (stage == 3) for p in parameters)
    if not stage:
        deepspeed_state.turn_off_allreduce(engine)
        assert not engine.enable_backward_allreduce
        return
    shards = deepspeed_state.shards(engine)
    assert {index for _, index in shards} == {0, 1}
    assert all(shard in inner.state for shard, _ in shards)
    deepspeed_state.link_moments(engine)
    check_values(engine)


def check_values(engine: Any) -> None:
    """Check that the values and the moments of each parameter can be written and read."""
    for number, parameter in enumerate(engine.module.parameters()):
        whole = deepspeed_state.get_whole(parameter)
        for key in (None, "exp_avg", "exp_avg_sq"):
            wanted = torch.randn_like(whole)
            deepspeed_state.set_whole(engine, parameter, wanted, 0, key)
            assert torch.equal(deepspeed_state.get_whole(parameter, key), wanted), (number, key)


def test_zero_3_may_update_a_parameter_group_in_pieces(made: Callable[..., Any]) -> None:
    engine = made(3, zero_optimization={"stage": 3, "sub_group_size": 5})
    train(engine)
    shards = deepspeed_state.shards(engine)
    assert [index for _, index in shards] == [0, 0, 1, 1]
    assert all(shard in deepspeed_state.torch_optimizer(engine).state for shard, _ in shards)
    check_values(engine)


def test_what_zero_3_has_partitioned_is_whole_afterwards(made: Callable[..., Any]) -> None:
    engine = made(3)
    before = [deepspeed_state.get_whole(p).clone() for p in engine.module.parameters()]
    deepspeed_state.destroy(engine)
    deepspeed_state.make_whole(engine.module)
    after = list(engine.module.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(deepspeed_state.is_partitioned(p) for p in after)


def test_a_destroyed_engine_leaves_memory() -> None:
    linear, kept = nn.functional.linear, []
    for _ in range(2):
        engine = make_engine(3)
        for _ in range(3):  # the third pass uses what DeepSpeed remembers of the first two
            train(engine)
        inside = (engine, engine.optimizer, engine.module, deepspeed_state.torch_optimizer(engine))
        kept += [weakref.ref(part) for part in inside]
        deepspeed_state.destroy(engine)
        del engine, inside
    gc.collect()
    nn.functional.linear = linear
    assert [type(part()).__name__ for part in kept] == ["NoneType"] * len(kept)


READERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "zero_optimization_stage": (deepspeed_state.stage, None),
    "enable_backward_allreduce": (deepspeed_state.turn_off_allreduce, None),
    "overflow": (deepspeed_state.overflowed, 2),
    "optimizer": (deepspeed_state.torch_optimizer, 2),
    "single_partition_of_fp32_groups": (deepspeed_state.shards, 1),
    "bit16_groups": (deepspeed_state.link_moments, 2),
    "fp32_partitioned_groups_flat": (deepspeed_state.shards, 3),
    "sub_group_to_group_id": (deepspeed_state.shards, 3),
}


@pytest.mark.parametrize("name", READERS)
def test_a_name_that_is_gone_is_named(name: str) -> None:
    read, stage = READERS[name]
    engine = SimpleNamespace(optimizer=SimpleNamespace())
    names = [n for n, (_, where) in READERS.items() if where == stage and n != name]
    for other in names:
        setattr(engine.optimizer, other, {0: 0} if other == "sub_group_to_group_id" else [])
    if stage is not None:
        engine.zero_optimization_stage = lambda: stage
    with pytest.raises(AttributeError, match=name):
        read(engine)


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        (1, {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}),
        (0, {"bf16": {"enabled": True}}),
    ],
)
def test_an_optimizer_whose_state_cannot_be_read_is_refused(
    made: Callable[..., Any], stage: int, config: dict[str, Any]
) -> None:
    engine = made(stage, **config)
    with pytest.raises(SpecError) as caught:
        deepspeed_state.check_optimizer(engine)
    assert caught.value.problems[0].key == "train.deepspeed"
    assert caught.value.problems[0].value == type(engine.optimizer).__name__
