"""Builds the DeepSpeed configuration from the spec, or from a user's JSON without its "auto"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftray.cluster.machine import lacks_for_nvme
from ftray.errors import ClusterError, Problem, SpecError, StorageError, shorten
from ftray.spec.sections.training import DeepSpeedSpec, TrainSpec
from ftray.store.files.location import locate

if TYPE_CHECKING:
    from ftray.train.distributed.context import DistContext

Config = dict[str, Any]
_KEY = "train.deepspeed"
_LEAN = {
    "stage3_max_live_parameters": 100_000_000,
    "stage3_max_reuse_distance": 100_000_000,
    "reduce_bucket_size": 50_000_000,
    "sub_group_size": 50_000_000,
}
"""Sizes in elements for stage 3. With DeepSpeed's defaults each worker holds up to a billion
gathered weights, which for most models is all of them, and updates a billion at once."""
_SECTIONS = ("fp16", "bf16", "data_types", "zero_optimization")
# Sections that the spec decides: a user's JSON may only set them to "auto".
_OURS = {
    "optimizer": "train.learning_rate and train.weight_decay",
    "scheduler": "train.schedule and train.warmup",
}


def deepspeed_config(
    spec: TrainSpec, micro_batch_size: int, accumulation: int, workers: int
) -> Config:
    """Return the complete DeepSpeed configuration of a run.

    Raises SpecError, with one problem for each key of a JSON that contradicts the spec.
    """
    ours = {**_batch(micro_batch_size, accumulation, workers), **_clipping(spec)}
    if isinstance(spec.deepspeed, DeepSpeedSpec):
        config: Config = {"zero_optimization": _zero(spec.deepspeed, workers)}
    else:
        config = read_json(spec.deepspeed)
        problems = _contradictions(spec, config, ours)
        if problems:
            raise SpecError(*problems)
        config = _without_auto(config)
    # ftray uses torch's optimizer, as DeepSpeed compiles its own optimizers at first use.
    quiet: Config = {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    if config.get("bf16", {}).get("enabled") is True:
        # DeepSpeed must skip updates with gradients that are not finite.
        quiet["bf16"] = {"check_grad_overflow": True, **config["bf16"]}
    return {**config, **quiet, **ours}


def require_disk(config: Config, ranks: DistContext) -> None:
    """Raise ClusterError on every rank if the configuration offloads to NVMe and any node lacks the
    libraries for it. Every rank must call this function."""
    zero = config.get("zero_optimization", {})
    devices = {zero.get(name, {}).get("device") for name in ("offload_optimizer", "offload_param")}
    if "nvme" not in devices:
        return
    lacking = sorted({name for found in ranks.gather(lacks_for_nvme()) for name in found})
    if lacking:
        raise ClusterError.of(
            f"{_KEY}.offload",
            "nvme",
            f"a node lacks {' and '.join(lacking)}, which DeepSpeed swaps to disk with",
            "install libaio-dev and g++ on every node (apt-get install libaio-dev g++), or set "
            "offload to cpu",
        )


def check_deepspeed(spec: TrainSpec, workers: int | None = None) -> None:
    """Raise SpecError if train.deepspeed names a JSON that cannot be used, or contradicts
    what the export is to do, as far as the driver can tell before workers start. workers: their
    number; None if it is not fixed yet."""
    for key in ("average", "calibrate"):
        if getattr(spec, key) and shards_weights(spec, workers or 2):
            problem = "needs whole weights, and ZeRO stage 3 shards them"
            fix = "leave it out, or use stage 2"
            raise SpecError.of(f"train.{key}", getattr(spec, key), problem, fix)
    if spec.weights == "nf4" and (shards_weights(spec, workers or 2) or uses_bf16(spec)):
        problem = "DeepSpeed is to shard the weights or to keep them in bf16"
        raise SpecError.of("train.weights", "nf4", problem, "use stage 0, 1 or 2 without bf16")
    if isinstance(spec.deepspeed, DeepSpeedSpec):
        return
    ours, size = _clipping(spec), spec.micro_batch_size
    if workers is not None and size != "auto":
        passes = math.ceil(math.ceil(spec.batch_size / size) / workers)
        ours |= _batch(size, passes, workers)
    problems = _contradictions(spec, read_json(spec.deepspeed), ours)
    if problems:
        raise SpecError(*problems)


def _batch(micro_batch_size: int, accumulation: int, workers: int) -> Config:
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch_size * accumulation * workers,
    }


def _clipping(spec: TrainSpec) -> Config:
    return {"gradient_clipping": spec.clip or 0.0}


def read_json(path: str) -> Config:
    """Read the DeepSpeed JSON at `path`. Raises SpecError."""
    try:
        config = locate(path).read_json()
    except (OSError, ValueError, StorageError) as error:
        raise SpecError.of(
            _KEY, path, f"cannot be read: {error}", "{stage: 0-3}, or the path of a DeepSpeed JSON"
        ) from None
    if not isinstance(config, dict):
        raise SpecError.of(_KEY, path, "not a JSON object", "see DeepSpeed's documentation")
    for name in _SECTIONS:
        if not isinstance(config.get(name, {}), dict):
            raise SpecError(
                _problem(name, config[name], "not an object", "see DeepSpeed's documentation")
            )
    return config


def uses_bf16(spec: TrainSpec) -> bool:
    """Return whether a user's JSON makes DeepSpeed keep the weights in bf16."""
    if isinstance(spec.deepspeed, DeepSpeedSpec):
        return False
    return read_json(spec.deepspeed).get("bf16", {}).get("enabled") is True


def shards_weights(spec: TrainSpec, workers: int) -> bool:
    """Return whether the run shards its weights over the workers (ZeRO stage 3)."""
    if isinstance(spec.deepspeed, DeepSpeedSpec):
        return _zero(spec.deepspeed, workers)["stage"] == 3
    return read_json(spec.deepspeed).get("zero_optimization", {}).get("stage") == 3


def _zero(spec: DeepSpeedSpec, workers: int) -> Config:
    if spec.offload == "none" and workers == 1:
        return {"stage": 0}  # nothing to shard: ZeRO would only copy the state around
    zero: Config = {"stage": spec.stage} | (_LEAN if spec.stage == 3 else {})
    if spec.offload != "none":
        where: Config = {"device": spec.offload}
        if spec.nvme_path is not None:
            where["nvme_path"] = spec.nvme_path
        zero["offload_optimizer"] = where
        if spec.stage == 3:
            zero["offload_param"] = where
    return zero


def _contradictions(spec: TrainSpec, config: Config, ours: Config) -> list[Problem]:
    problems = []
    for key, value in ours.items():
        given = config.get(key, "auto")
        if given != "auto" and given != value:
            problems.append(
                _problem(key, given, f"the spec makes it {value:g}", 'write "auto" or leave it out')
            )
    for key, where in _OURS.items():
        if config.get(key, "auto") != "auto":
            problems.append(_problem(key, None, f"the spec decides it ({where})", "leave it out"))
    if config.get("fp16", {}).get("enabled") is True:
        problems.append(_problem("fp16.enabled", True, "fp16 is not offered", "use bf16"))
    if config.get("bf16", {}).get("enabled") is True and spec.precision == "fp32":
        problems.append(
            _problem("bf16.enabled", True, "train.precision is fp32", "change one of the two")
        )
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage not in ("auto", 0, 1, 2, 3):
        problems.append(_problem("zero_optimization.stage", stage, "no such stage", "0, 1, 2 or 3"))
    if config.get("bf16", {}).get("enabled") is True and stage in ("auto", 0):
        # With bf16 weights at stage 0 DeepSpeed first runs an optimizer step of its own, which
        # decays the weights.
        problems.append(
            _problem(
                "bf16.enabled",
                True,
                "bf16 weights need ZeRO",
                "set zero_optimization.stage to 1, 2 or 3, or train.precision to bf16 instead",
            )
        )
    problems += _other_optimizers(config, stage)
    return [*problems, *_offload_problems(config.get("zero_optimization", {}), stage)]


def _other_optimizers(config: Config, stage: Any) -> Iterator[Problem]:
    """Yield a problem for each key that makes DeepSpeed choose an optimizer whose state ftray
    cannot checkpoint."""
    problem = "DeepSpeed then uses an optimizer whose state ftray cannot checkpoint"
    accumulates = config.get("data_types", {}).get("grad_accum_dtype", "auto")
    own = ("auto", None, "bf16", "bfloat16")
    if config.get("bf16", {}).get("enabled") is True and stage == 1 and accumulates not in own:
        fix = "leave it out, or set zero_optimization.stage to 2"
        yield _problem("data_types.grad_accum_dtype", accumulates, problem, fix)
    zero = config.get("zero_optimization", {})
    if zero.get("zenflow", "auto") not in ("auto", None):
        yield _problem("zero_optimization.zenflow", zero["zenflow"], problem, "leave it out")
    offload = zero.get("offload_optimizer")
    if isinstance(offload, dict) and offload.get("super_offload", "auto") not in ("auto", False):
        key = "zero_optimization.offload_optimizer.super_offload"
        yield _problem(key, offload["super_offload"], problem, "leave it out")


def _offload_problems(zero: Config, stage: Any) -> Iterator[Problem]:
    """Yield the problems of the offload sections of a JSON. DeepSpeed silently ignores some of
    them."""
    for name, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        key, section = f"zero_optimization.{name}", zero.get(name, "auto")
        if section == "auto":
            continue
        if not isinstance(section, dict):
            yield _problem(key, section, "not an object", 'write {"device": "cpu"} or leave it out')
            continue
        device = section.get("device", "auto")
        if device not in ("auto", "none", "cpu", "nvme"):
            yield _problem(f"{key}.device", device, "no such device", "none, cpu or nvme")
        if device not in ("cpu", "nvme"):
            continue
        needed = 3 if device == "nvme" else lowest
        if stage == "auto" or (stage in (0, 1, 2, 3) and stage < needed):
            fix = f"set zero_optimization.stage to {needed} or more"
            yield _problem(f"{key}.device", device, f"needs ZeRO stage {needed}", fix)
        if device == "nvme" and section.get("nvme_path", "auto") == "auto":
            fix = "name a folder on a fast local disk"
            yield _problem(f"{key}.nvme_path", None, "nvme needs a path", fix)


def _problem(key: str, value: Any, problem: str, fix: str) -> Problem:
    return Problem(f"{_KEY}: {key}", shorten(value), problem, fix[0].upper() + fix[1:] + ".")


def _without_auto(value: Any) -> Any:
    """Remove all keys with the value "auto": the spec or DeepSpeed's default decides them."""
    if isinstance(value, dict):
        return {key: _without_auto(inner) for key, inner in value.items() if inner != "auto"}
    return value
