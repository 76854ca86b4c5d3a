"""The memory that one worker needs at its highest, by part, under every ZeRO stage and offload.

The sizes of DeepSpeed's buffers are those of its own source (runtime/engine.py, runtime/zero/
stage_1_and_2.py and stage3.py); the stages are those of Rajbhandari et al. 2020. P parameters, of
which T train, W workers, moments of AdamW in full precision:

stage 0     gradients 4T and moments 8T whole; to add gradients up, a flat copy of them
stages 1, 2 the weights in one flat buffer; the master copy and the moments 12T/W; a bucket that all
            gradients are copied to, its flat copy for the reduction, and the reduced part
stage 3     weights, moments and gradients in parts; the weights that are in use gathered; the
            bucket and its copy
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.deepspeed_config import deepspeed_config
from ftray.train.memory.simulate import MemoryTrace

FULL = 4
"""Bytes of a number in full precision: master weights, moments, reduced gradients."""

PROCESS = 640_000_000
"""Resident in a worker that trains next to nothing: torch, transformers, DeepSpeed, Ray and the
operators' own buffers (tests/bench/memory.py with a model of a few thousand weights)."""

SHARDED = 55_000_000
"""What stage 3 adds to that with the same model."""

CONTEXT = 500 * 2**20
"""What CUDA itself takes of a GPU for one process."""

_BUCKET = 500_000_000
"""DeepSpeed's default for reduce_bucket_size, in elements."""


@dataclass(frozen=True)
class Parts:
    """Bytes by what they are for, at the moment when they add up to most."""

    process: int = 0
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    buffers: int = 0
    checkpoint: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def __add__(self, other: Parts) -> Parts:
        names = [field.name for field in fields(self)]
        return Parts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def shown(self) -> dict[str, int]:
        """Those that there are, largest first."""
        return dict(sorted(((n, c) for n, c in asdict(self).items() if c), key=lambda p: -p[1]))

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Memory:
    """Of one worker: its process in the host's memory and, where it has one, its GPU."""

    host: Parts
    device: Parts | None = None

    @property
    def decisive(self) -> Parts:
        """Where it gets tight: the GPU's where there is one."""
        return self.device or self.host

    def to_json(self) -> dict[str, Any]:
        return {
            "host": self.host.to_json(),
            "device": self.device.to_json() if self.device else None,
        }


@dataclass(frozen=True)
class Layout:
    """How DeepSpeed lays out the state, from its configuration."""

    stage: int
    workers: int
    accumulation: int
    low: int
    """Bytes of a weight as the model computes with it."""
    offloads_optimizer: str
    offloads_weights: str
    bucket: int
    """Elements of the bucket that gradients are reduced in."""

    @classmethod
    def of(cls, spec: TrainSpec, micro_batch_size: int, workers: int) -> Layout:
        """Raises SpecError where a DeepSpeed JSON contradicts the spec."""
        chunks = -(-spec.batch_size // micro_batch_size)
        accumulation = -(-chunks // workers)
        config = deepspeed_config(spec, micro_batch_size, accumulation, workers)
        zero = config.get("zero_optimization", {})
        return cls(
            stage=zero.get("stage", 0),
            workers=workers,
            accumulation=accumulation,
            low=2 if config.get("bf16", {}).get("enabled") is True else FULL,
            offloads_optimizer=zero.get("offload_optimizer", {}).get("device", "none"),
            offloads_weights=zero.get("offload_param", {}).get("device", "none"),
            bucket=int(zero.get("reduce_bucket_size", _BUCKET)),
        )

    def share(self, elements: int) -> int:
        """Of what is split among the workers, the largest part."""
        return -(-elements // self.workers)


def worker_memory(
    traces: list[MemoryTrace], layout: Layout, on_gpu: bool, keeps: bool = True
) -> Memory:
    """The need of the phase that needs most. `keeps`: whether the worker writes checkpoints, as
    the first one does."""
    found = [_of_phase(trace, layout, on_gpu, keeps) for trace in traces]
    return max(found, key=lambda memory: memory.decisive.total)


def reserve(parameters: int, trainable: int, largest: int, layout: Layout) -> int:
    """Bytes of a GPU that training takes beside weights, gradients and activations."""
    trace = MemoryTrace(0, parameters, trainable, largest, 0, 0, 0)
    state, _ = _state(trace, layout)
    return state.total - state.weights + _working(trace, layout, on_gpu=True).buffers


def _of_phase(trace: MemoryTrace, layout: Layout, on_gpu: bool, keeps: bool) -> Memory:
    on_device, offloaded = _state(trace, layout)
    working = _working(trace, layout, on_gpu)
    # Whole parameters and both moments, copied from the workers, while the next steps are made.
    copied = 3 * FULL * trace.trainable if keeps else 0
    process = PROCESS + (SHARDED if layout.stage == 3 else 0)
    if not on_gpu:
        if layout.stage == 0:
            # Copied to where activations were, if these are not back before it is written: that is
            # up to the disk, so half of their room counts. Gathering scatters copies everywhere.
            copied = max(0, copied - trace.peak // 2)
        taken = on_device + offloaded + working
        return Memory(Parts(process=process, checkpoint=copied) + taken)
    checkpoint = Parts(checkpoint=copied)
    loaded = Parts(process=process, weights=FULL * trace.parameters)
    return Memory(loaded + offloaded + checkpoint, Parts(process=CONTEXT) + on_device + working)


def _state(trace: MemoryTrace, layout: Layout) -> tuple[Parts, Parts]:
    """What is always there: on the device, and what an offload puts in the host's memory."""
    whole, part = trace.trainable, layout.share(trace.trainable)
    if layout.stage == 0:
        return Parts(weights=layout.low * trace.parameters, optimizer=2 * FULL * whole), Parts()
    parted = layout.stage == 3
    # Stage 3 updates the model's own weights where these are in full precision.
    master = 0 if parted and layout.low == FULL else FULL
    kept = layout.share(trace.parameters) if parted else trace.parameters
    device, host = Parts(), Parts()
    if layout.offloads_weights == "none":
        device += Parts(weights=layout.low * kept)
    elif layout.offloads_weights == "cpu":
        host += Parts(weights=layout.low * kept)
    if layout.offloads_optimizer == "none":
        gradients = FULL * part if parted else 0
        device += Parts(optimizer=(master + 2 * FULL) * part, gradients=gradients)
    else:
        # The gradient of the part, and the part in the weights' own precision on its way back.
        host += Parts(gradients=FULL * part, buffers=layout.low * part)
        if layout.offloads_optimizer == "cpu":
            host += Parts(optimizer=3 * FULL * part)
    return device, host


def _working(trace: MemoryTrace, layout: Layout, on_gpu: bool) -> Parts:
    """What a step takes on top of that."""
    gradients = layout.low * trace.trainable
    flat = 0 if layout.workers == 1 else min(gradients, layout.low * layout.bucket)
    bucket = 0
    if layout.stage > 0:
        # Of the host's memory only what is written to counts; on a GPU the bucket is taken whole.
        bucket = layout.low * layout.bucket if on_gpu else flat
    gathered = layout.low * trace.parameters if layout.stage == 3 else 0
    if on_gpu:
        return _at_once(trace, layout, Parts(weights=gathered, buffers=bucket), flat)
    # glibc's heap, which `settle` has told to keep what it has, is too scattered after the backward
    # pass to find room for another kind of tensor: each kind takes its own.
    copies = 0 if layout.stage == 0 or layout.workers == 1 else gradients
    # As loaded, before stage 3 cuts them up.
    whole = FULL * trace.parameters if layout.stage == 3 else 0
    # From stage 2 on gradients go to the bucket as they come, and a part of them comes back.
    kept = gradients if layout.stage < 2 else FULL * layout.share(trace.trainable)
    return Parts(
        weights=gathered + whole,
        gradients=kept,
        activations=trace.peak,
        # Gloo reduces and gathers in a copy of its own.
        buffers=bucket + flat + copies,
    )


def _at_once(trace: MemoryTrace, layout: Layout, always: Parts, flat: int) -> Parts:
    """The fuller of two moments: forward and backward, and the reduction; torch's allocator on a
    GPU gives the memory of the one to the other."""
    gradients = layout.low * trace.trainable
    part = FULL * layout.share(trace.trainable)
    if layout.stage < 2:
        accumulates = layout.accumulation > 1
        peak = trace.peak if accumulates else trace.peak_with_gradients
        passing = Parts(gradients=gradients if accumulates else 0, activations=peak)
        reducing = Parts(gradients=gradients + (part if layout.stage else 0), buffers=flat)
    else:
        held = part if layout.accumulation > 1 and layout.stage == 2 else 0
        passing = Parts(gradients=held, activations=trace.peak)
        reducing = Parts(gradients=2 * part, buffers=flat)
    return always + max(passing, reducing, key=lambda parts: parts.total)
