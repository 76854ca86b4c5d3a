"""The DeepSpeed configuration: the spec's numbers rule, a JSON's "auto" is filled in, and what
contradicts the spec is named key by key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import ClusterError, Problem, SpecError
from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.deepspeed_config import (
    check_deepspeed,
    deepspeed_config,
    require_disk,
    uses_bf16,
)

Write = Callable[..., TrainSpec]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """The spec whose train.deepspeed is a JSON of that content."""

    def run(content: Any, **train: Any) -> TrainSpec:
        path = tmp_path / "deepspeed.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return TrainSpec.model_validate({"deepspeed": str(path), **train})

    return run


def config(spec: TrainSpec) -> dict[str, Any]:
    return deepspeed_config(spec, micro_batch_size=8, accumulation=2, workers=2)


LEAN = {
    *("stage3_max_live_parameters", "stage3_max_reuse_distance"),
    *("reduce_bucket_size", "sub_group_size"),
}


def problems(spec: TrainSpec) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        config(spec)
    return caught.value.problems


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_spec_alone_makes_a_whole_configuration(stage: int) -> None:
    made = config(TrainSpec.model_validate({"deepspeed": {"stage": stage}, "clip": 0.5}))
    sizes = made["zero_optimization"].keys() - {"stage"}
    assert made["zero_optimization"]["stage"] == stage
    assert sizes == (LEAN if stage == 3 else set()), "stage 3 is to keep few weights gathered"
    assert made["train_micro_batch_size_per_gpu"] == 8
    assert made["gradient_accumulation_steps"] == 2
    assert made["train_batch_size"] == 32
    assert made["gradient_clipping"] == 0.5


def test_an_offload_is_deepspeeds_own(tmp_path: Path) -> None:
    made = config(TrainSpec.model_validate({"deepspeed": {"stage": 2, "offload": "cpu"}}))
    assert made["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    disk = {"stage": 3, "offload": "nvme", "nvme_path": str(tmp_path)}
    made = config(TrainSpec.model_validate({"deepspeed": disk}))
    where = {"device": "nvme", "nvme_path": str(tmp_path)}
    zero = made["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == where
    assert zero.keys() == {"stage", "offload_optimizer", "offload_param"} | LEAN


@pytest.mark.parametrize(("offload", "stage"), [("none", 0), ("cpu", 2)])
def test_one_worker_shards_only_to_offload(offload: str, stage: int) -> None:
    spec = TrainSpec.model_validate({"deepspeed": {"stage": 2, "offload": offload}})
    made = deepspeed_config(spec, micro_batch_size=8, accumulation=4, workers=1)
    assert made["zero_optimization"]["stage"] == stage


def test_no_clip_is_none_in_deepspeed_too() -> None:
    assert config(TrainSpec(clip=None))["gradient_clipping"] == 0.0


def test_auto_is_filled_in_or_left_to_deepspeed(write: Write) -> None:
    made = config(
        write(
            {
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_accumulation_steps": "auto",
                "gradient_clipping": "auto",
                "optimizer": "auto",
                "scheduler": "auto",
                "fp16": {"enabled": "auto"},
                "zero_optimization": {
                    "stage": 3,
                    "reduce_bucket_size": "auto",
                    "offload_param": {"device": "cpu", "buffer_size": "auto"},
                },
            }
        )
    )
    assert "auto" not in json.dumps(made)
    assert made["train_batch_size"] == 32
    assert made["gradient_clipping"] == 1.0
    assert made["zero_optimization"] == {"stage": 3, "offload_param": {"device": "cpu"}}


def test_what_agrees_with_the_spec_and_what_it_does_not_say_is_kept(write: Write) -> None:
    made = config(
        write(
            {
                "train_batch_size": 32,
                "gradient_clipping": 1,
                "zero_optimization": {"stage": 1, "overlap_comm": True},
                "wall_clock_breakdown": True,
            }
        )
    )
    assert made["zero_optimization"] == {"stage": 1, "overlap_comm": True}
    assert made["wall_clock_breakdown"] is True


def test_auto_in_an_offload_is_deepspeeds_default(write: Write) -> None:
    optimizer = {"device": "cpu", "pin_memory": "auto", "buffer_count": "auto"}
    content = {"stage": 2, "offload_optimizer": optimizer, "offload_param": "auto"}
    made = config(write({"zero_optimization": content}))
    assert made["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}


class DistContext:
    """Two ranks: gather returns what each of them has."""

    def __init__(self, *found: list[str]) -> None:
        self._found = list(found)

    def gather(self, value: Any) -> list[Any]:
        return self._found


def test_an_offload_to_disk_names_what_a_node_lacks(write: Write, tmp_path: Path) -> None:
    nvme = {"stage": 3, "offload": "nvme", "nvme_path": str(tmp_path)}
    made = config(TrainSpec.model_validate({"deepspeed": nvme}))
    require_disk(made, DistContext([], []))
    with pytest.raises(ClusterError) as caught:
        require_disk(made, DistContext([], ["libaio"]))
    (found,) = caught.value.problems
    assert (found.key, found.value) == ("train.deepspeed.offload", "nvme")
    assert "libaio" in found.problem
    assert "apt-get install libaio-dev" in found.fix
    require_disk(config(TrainSpec()), DistContext([], ["libaio"]))


def test_an_empty_json_will_do(write: Write) -> None:
    assert config(write({}))["train_batch_size"] == 32


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "train_batch_size": ({"train_batch_size": 64}, "the spec makes it 32"),
    "train_micro_batch_size_per_gpu": (
        {"train_micro_batch_size_per_gpu": 4},
        "the spec makes it 8",
    ),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 1}, "the spec makes it 2"),
    "gradient_clipping": ({"gradient_clipping": 0.3}, "the spec makes it 1"),
    "optimizer": ({"optimizer": {"type": "Adam"}}, "train.learning_rate"),
    "scheduler": ({"scheduler": {"type": "WarmupLR"}}, "train.schedule"),
    "fp16.enabled": ({"fp16": {"enabled": True}}, "fp16 is not offered"),
    "zero_optimization.stage": ({"zero_optimization": {"stage": 4}}, "no such stage"),
    "zero_optimization.offload_optimizer": (
        {"zero_optimization": {"stage": 2, "offload_optimizer": True}},
        "not an object",
    ),
    "zero_optimization.offload_optimizer.device": (
        {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
        "needs ZeRO stage 1",
    ),
    "zero_optimization.offload_param.device": (
        {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
        "needs ZeRO stage 3",
    ),
    "zero_optimization.offload_optimizer.nvme_path": (
        {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
        "needs a path",
    ),
    "bf16.enabled": ({"bf16": {"enabled": True}}, "need ZeRO"),
    "fp16": ({"fp16": True}, "not an object"),
    "bf16": ({"bf16": None}, "not an object"),
    "zero_optimization": ({"zero_optimization": 2}, "not an object"),
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_a_contradiction_names_its_key(write: Write, key: str) -> None:
    content, words = CONTRADICTIONS[key]
    (found,) = problems(write(content))
    assert found.key == f"train.deepspeed: {key}"
    assert words in found.problem
    assert found.fix


def test_every_contradiction_is_named(write: Write) -> None:
    found = problems(
        write(
            {
                "train_batch_size": 64,
                "optimizer": {"type": "Adam"},
                "fp16": {"enabled": True},
                "zero_optimization": {"stage": -1},
            }
        )
    )
    assert [problem.key.removeprefix("train.deepspeed: ") for problem in found] == [
        "train_batch_size",
        "optimizer",
        "fp16.enabled",
        "zero_optimization.stage",
    ]


@pytest.mark.parametrize(("precision", "is_fault"), [("fp32", True), ("bf16", False)])
def test_bf16_contradicts_fp32_alone(write: Write, precision: str, is_fault: bool) -> None:
    content = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
    spec = write(content, precision=precision)
    assert uses_bf16(spec)
    if is_fault:
        assert problems(spec)[0].key == "train.deepspeed: bf16.enabled"
    else:
        assert config(spec)["bf16"] == {"enabled": True, "check_grad_overflow": True}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (
            {
                "bf16": {"enabled": True},
                "data_types": {"grad_accum_dtype": "fp32"},
                "zero_optimization": {"stage": 1},
            },
            "data_types.grad_accum_dtype",
        ),
        (
            {"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}},
            "zero_optimization.zenflow",
        ),
        (
            {
                "zero_optimization": {
                    "stage": 3,
                    "offload_optimizer": {"device": "cpu", "super_offload": True},
                }
            },
            "zero_optimization.offload_optimizer.super_offload",
        ),
    ],
)
def test_an_optimizer_that_cannot_be_checkpointed_is_refused(
    write: Write, content: dict[str, Any], key: str
) -> None:
    (found,) = problems(write(content))
    assert found.key == f"train.deepspeed: {key}"


@pytest.mark.parametrize(
    "content", [{}, {"bf16": {"enabled": False}}, {"bf16": {"enabled": "auto"}}]
)
def test_bf16_is_off_unless_a_json_turns_it_on(write: Write, content: dict[str, Any]) -> None:
    assert not uses_bf16(write(content))
    assert not uses_bf16(TrainSpec())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'"auto"', b"\x80\x81", b"train_batch_size: 8"]
)
def test_a_file_that_is_no_json_object_is_refused(write: Write, content: bytes) -> None:
    spec = write(content)
    for asked in (config, check_deepspeed):
        with pytest.raises(SpecError) as caught:
            asked(spec)
        (found,) = caught.value.problems
        assert found.key == "train.deepspeed"
        assert found.value == str(spec.deepspeed)


@pytest.mark.parametrize("name", ["no-such.json", ".", "package://no_such_module/deepspeed.json"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = name if "://" in name else str(tmp_path / name)
    with pytest.raises(SpecError) as caught:
        check_deepspeed(TrainSpec(deepspeed=path))
    assert caught.value.problems[0].key == "train.deepspeed"
    assert caught.value.problems[0].value == path


def test_what_needs_no_scale_is_checked_before_anything_starts(write: Write) -> None:
    with pytest.raises(SpecError):
        check_deepspeed(write({"fp16": {"enabled": True}}))
    with pytest.raises(SpecError, match="gradient_clipping = 0.5: the spec makes it 1"):
        check_deepspeed(write({"gradient_clipping": 0.5}))
    with pytest.raises(SpecError, match="train_batch_size = 8: the spec makes it 16"):
        check_deepspeed(write({"train_batch_size": 8}, batch_size=16, micro_batch_size=4), 2)
    check_deepspeed(write({"train_batch_size": 16}, batch_size=16, micro_batch_size=4), 2)
    check_deepspeed(write({"train_batch_size": "auto", "zero_optimization": {"stage": 2}}))
    check_deepspeed(TrainSpec())
