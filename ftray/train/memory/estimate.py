"""Estimates the peak memory of one worker, by part, for every ZeRO stage and offload.

The sizes of DeepSpeed's buffers come from its source (runtime/engine.py, runtime/zero/
stage_1_and_2.py and stage3.py); Rajbhandari et al. 2020 define the stages. With P parameters, T of
them trainable, W workers, and the moments of AdamW in full precision, a worker holds in bytes:

stage 0     unsharded gradients 4T and moments 8T; a flat copy of the gradients for the all-reduce,
            or on CPUs of one machine the gradients of other ranks (weights and moments are shared)
stages 1, 2 the weights in one flat buffer; the master copy and the moments 12T/W; a bucket that all
            gradients are copied to, its flat copy for the reduction, and the reduced shard
stage 3     shards of weights, moments and gradients; the gathered weights that are in use; the
            bucket and its copy
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.deepspeed_config import deepspeed_config
from ftray.train.memory.simulate import MemoryTrace

FULL = 4
"""Bytes of an fp32 number: master weights, moments, reduced gradients."""

PROCESS = 640_000_000
"""Resident bytes of a worker with a tiny model: torch, transformers, DeepSpeed, Ray and the
operators' own buffers (measured by tests/bench/training/memory.py with a few thousand weights)."""

SHARDED = 55_000_000
"""Resident bytes that ZeRO stage 3 adds to PROCESS with the same tiny model."""

CONTEXT = 500 * 2**20
"""Bytes of GPU memory that the CUDA context of one process takes."""

_BUCKET, _LIVE = 500_000_000, 1_000_000_000
"""DeepSpeed's defaults for reduce_bucket_size and stage3_max_live_parameters, in elements."""


@dataclass(frozen=True)
class Parts:
    """Bytes by purpose, at the moment of peak memory."""

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
        """Return the parts that are not 0, largest first."""
        return dict(sorted(((n, c) for n, c in asdict(self).items() if c), key=lambda p: -p[1]))

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Memory:
    """The memory of one worker: its process in host memory and, where it has one, its GPU."""

    host: Parts
    device: Parts | None = None

    @property
    def decisive(self) -> Parts:
        """Return the parts of the memory that runs out first: the GPU's if there is a GPU."""
        return self.device or self.host

    def to_json(self) -> dict[str, Any]:
        return {
            "host": self.host.to_json(),
            "device": self.device.to_json() if self.device else None,
        }


@dataclass(frozen=True)
class Layout:
    """The numbers of a DeepSpeed configuration that decide how it lays out the training state."""

    stage: int
    workers: int
    accumulation: int
    low: int
    """Bytes of a weight in the model's compute precision."""
    offloads_optimizer: str
    offloads_weights: str
    bucket: int
    """Elements of the bucket for the reduction of gradients."""
    live: int
    """Elements of the weights that stage 3 keeps gathered."""
    lora: bool = False
    """Whether LoRA adapters train."""

    @classmethod
    def of(cls, spec: TrainSpec, micro_batch_size: int, workers: int) -> Layout:
        """Derive the layout from the spec. Raises SpecError where a DeepSpeed JSON contradicts the
        spec."""
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
            live=int(zero.get("stage3_max_live_parameters", _LIVE)),
            lora=spec.lora is not None,
        )

    def share(self, elements: int) -> int:
        """Return the size of the largest shard when `elements`, or bytes, are sharded over the
        workers."""
        return -(-elements // self.workers)


def worker_memory(
    traces: list[MemoryTrace], layout: Layout, on_gpu: bool, keeps: bool = True
) -> Memory:
    """Return the memory of the phase that needs most. `keeps`: whether the worker writes
    checkpoints, as rank 0 does."""
    found = [_of_phase(trace, layout, on_gpu, keeps) for trace in traces]
    return max(found, key=lambda memory: memory.decisive.total)


def reserve(parameters: int, trainable: int, largest: int, layout: Layout) -> int:
    """Return the bytes of a GPU that training takes beside weights, activations and the gradients
    that autograd makes."""
    trace = MemoryTrace(0, parameters, trainable, largest, 0, 0, 0)
    state, _ = _state(trace, layout)
    return state.total - state.weights + _working(trace, layout, on_gpu=True).buffers


def _of_phase(trace: MemoryTrace, layout: Layout, on_gpu: bool, keeps: bool) -> Memory:
    on_device, offloaded = _state(trace, layout)
    working = _working(trace, layout, on_gpu)
    # A checkpoint in the making: rank 0 holds unsharded fp32 copies of the trained parameters and
    # of both moments while it writes them in the background and the next steps run. At stage 3 each
    # rank holds and writes its share.
    written = layout.share(trace.trainable) if layout.stage == 3 else trace.trainable
    copied = 3 * FULL * written if keeps else 0
    process = PROCESS + (SHARDED if layout.stage == 3 else 0)
    if not on_gpu:
        if layout.stage == 0:
            # The copies for a checkpoint go into memory that freed activations left. If the disk
            # is slow, the next step needs its activations before the checkpoint is written, and
            # both take memory. So half of the activations' peak counts as reused. Other stages
            # gather shards, which scatters the copies over the heap: nothing is reused.
            copied = max(0, copied - trace.peak // 2)
        taken = on_device + offloaded + working
        return Memory(Parts(process=process, checkpoint=copied) + taken)
    checkpoint = Parts(checkpoint=copied)
    # Stage 3 reads the weights' file tensor by tensor, and so does the quantization to four bits.
    whole = on_device.weights if trace.light_bytes < 2 else FULL * trace.parameters
    weights = 0 if layout.stage == 3 else whole
    loaded = Parts(process=process, weights=weights)
    return Memory(loaded + offloaded + checkpoint, Parts(process=CONTEXT) + on_device + working)


def _state(trace: MemoryTrace, layout: Layout) -> tuple[Parts, Parts]:
    """Return the memory that training holds all the time: (parts on the device, parts that an
    offload moves to host memory)."""
    whole, part = trace.trainable, layout.share(trace.trainable)
    weights = layout.low * trace.parameters
    weights -= round(max(0, layout.low - trace.light_bytes) * trace.light)
    if layout.stage == 0:
        return Parts(weights=weights, optimizer=2 * FULL * whole), Parts()
    parted = layout.stage == 3
    # With fp32 weights stage 3 updates the model's own weights and needs no master copy.
    master = 0 if parted and layout.low == FULL else FULL
    kept = layout.share(weights) if parted else weights
    device, host = Parts(), Parts()
    if layout.offloads_weights == "none":
        device += Parts(weights=kept)
    elif layout.offloads_weights == "cpu":
        host += Parts(weights=kept)
    if layout.offloads_optimizer == "none":
        gradients = FULL * part if parted else 0
        device += Parts(optimizer=(master + 2 * FULL) * part, gradients=gradients)
    else:
        # The fp32 gradients of the shard, and the updated shard in the weights' precision, on its
        # way back to the device.
        host += Parts(gradients=FULL * part, buffers=layout.low * part)
        if layout.offloads_optimizer == "cpu":
            host += Parts(optimizer=3 * FULL * part)
    return device, host


def _working(trace: MemoryTrace, layout: Layout, on_gpu: bool) -> Parts:
    """Return the memory that a step takes beside `_state`."""
    gradients = layout.low * trace.trainable
    flat = 0 if layout.workers == 1 else min(gradients, layout.low * layout.bucket)
    bucket = 0
    if layout.stage > 0:
        # On the host only the written pages of the bucket take memory; on a GPU all of it does.
        bucket = layout.low * layout.bucket if on_gpu else flat
    most = max(layout.live, 2 * trace.largest)
    gathered = layout.low * min(trace.parameters, most) if layout.stage == 3 else 0
    if on_gpu:
        return _at_once(trace, layout, Parts(weights=gathered, buffers=bucket), flat)
    # From stage 2 on DeepSpeed moves each gradient to the bucket at once, and keeps only the
    # reduced shard in fp32.
    kept = gradients if layout.stage < 2 else FULL * layout.share(trace.trainable)
    if layout.stage == 3:
        # `settle` makes glibc return freed memory, so the reduction takes what activations left.
        moments = Parts(activations=trace.peak), Parts(buffers=bucket + flat)
        always = Parts(weights=gathered, gradients=kept)
        return always + max(moments, key=lambda parts: parts.total)
    # On a CPU the sizes of all kinds of tensors add up below stage 3: `settle` makes glibc keep
    # freed memory, and after the backward pass the heap is too fragmented for one kind to reuse
    # memory of another.
    copies = gradients if layout.stage and layout.workers > 1 else 0
    # Adapters save many small tensors, which fragment the heap: it takes twice the activations.
    fragmented = trace.peak if layout.lora else 0
    return Parts(
        gradients=kept,
        activations=trace.peak + fragmented,
        # Gloo reduces and gathers in copies of its own.
        buffers=bucket + flat + copies,
    )


def _at_once(trace: MemoryTrace, layout: Layout, always: Parts, flat: int) -> Parts:
    """Return `always` plus the larger of two moments: the forward and backward passes, and the
    reduction of gradients. On a GPU torch's allocator reuses the memory of one for the other."""
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
