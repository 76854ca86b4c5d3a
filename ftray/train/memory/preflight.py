"""Predicts whether a spec's workers fit into memory, and suggests changes if they do not."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.filesize import decimal as file_size

from ftray.cluster import capacity, machine
from ftray.cluster import connection as cluster
from ftray.cluster.device import visible_gpus
from ftray.errors import FtrayError
from ftray.models.limits import check_described
from ftray.models.pretrained import described
from ftray.spec.schema import Spec, micro_batch_size
from ftray.spec.sections.training import DeepSpeedSpec
from ftray.tasks.schema import Schema
from ftray.train.distributed.context import DistContext
from ftray.train.engine.deepspeed import wants_autocast
from ftray.train.memory.estimate import Layout, Memory, worker_memory
from ftray.train.memory.hardware import Gpus
from ftray.train.memory.simulate import MemoryTrace, trace_phases

_USABLE = 0.95
"""Usable share of a node's memory: Ray kills workers above it."""


@dataclass(frozen=True)
class Budget:
    """Bytes that one worker may take of its node's memory and, on GPUs, of its device's memory;
    None where that cannot be known on this machine, and for `device` without a GPU."""

    host: int | None
    device: int | None = None
    on_gpu: bool = False

    def holds(self, memory: Memory) -> bool:
        device = memory.device.total if memory.device else 0
        fits = self.host is None or memory.host.total <= self.host
        return fits and (self.device is None or device <= self.device)


@dataclass(frozen=True)
class Suggestion:
    """Changes of the spec that make its workers fit, and the memory of a worker with them."""

    changes: dict[str, Any]
    memory: Memory

    def to_json(self) -> dict[str, Any]:
        return {"set": self.changes, **self.memory.to_json()}


@dataclass(frozen=True)
class Forecast:
    """The predicted memory of rank 0, which needs most of all workers: it also writes
    checkpoints."""

    stage: int
    asked: int
    """The stage that the spec names."""
    micro_batch_size: int
    memory: Memory
    room: Budget
    options: tuple[Suggestion, ...]
    note: str = ""
    """What ftray changes so that the model and its tokenizer fit each other."""
    trace: MemoryTrace | None = None
    """Of the phase that trains most."""

    @property
    def fits(self) -> bool:
        return self.room.holds(self.memory)

    def lines(self) -> Iterator[str]:
        """Yield the forecast as lines for the user."""
        if self.note:
            yield self.note
        where = "GPU" if self.memory.device else "memory"
        need, there = self.memory.decisive, self.room.device or self.room.host or 0
        parts = ", ".join(f"{name} {file_size(count)}" for name, count in need.shown().items())
        yield (
            f"{file_size(need.total)} of {where} per worker at ZeRO stage {self.stage}{self._why()}"
            f" and micro batches of {self.micro_batch_size}: {parts}"
        )
        if self.fits:
            return
        yield f"which is more than the {file_size(there)} that there are for each; what would fit:"
        for option in self.options:
            changes = ", ".join(f"{key}={value}" for key, value in option.changes.items())
            yield f"  {changes}: {file_size(option.memory.decisive.total)}"
        if not self.options:
            yield "  nothing of micro_batch_size, gradient_checkpointing, stage, offload, unfreeze"

    def _why(self) -> str:
        """Return the reason why the stage differs from that of the spec; empty if it does not."""
        if self.stage == self.asked:
            return ""
        return f" (not {self.asked}: one worker has none to share with)"

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "micro_batch_size": self.micro_batch_size,
            **self.memory.to_json(),
            "available": {"host": self.room.host, "device": self.room.device},
            "fits": self.fits,
            "options": [option.to_json() for option in self.options],
        }


def forecast(spec: Spec, schema: Schema, gpus: Gpus | None = None) -> Forecast:
    """Predict the memory of a run's workers, and changes that make them fit if they do not. gpus:
    those to predict for, one a worker, in place of what is here.

    Needs torch, and a cluster only where $RAY_ADDRESS names one. Raises FtrayError where the
    model's config cannot be had, its forward pass cannot be traced, or the model has no positions
    for data.max_length tokens.
    """
    with described(spec.model, schema) as pretrained:
        note = check_described(pretrained, spec, schema)
    room = find_room(spec) if gpus is None else Budget(None, gpus.memory, on_gpu=True)
    return replace(Planner(schema, room).plan(spec), note=note)


def find_room(spec: Spec) -> Budget:
    """Return the memory that this machine, or the cluster at $RAY_ADDRESS, has for each worker."""
    workers = spec.scale.most_workers
    if os.environ.get("RAY_ADDRESS", "local") != "local":
        with cluster.session():
            sizes = [node.memory for node in cluster.nodes()]
            # A cluster that is scaled to zero has no nodes: assume nodes as large as this machine.
            sizes = sizes or [machine.memory()] * workers
            gpus = capacity.has_gpus()
        each = -(-workers // len(sizes))
        return Budget(int(_USABLE * min(sizes) / each), None, _uses_gpu(spec, gpus))
    host = int(_USABLE * machine.memory() / workers)
    if not _uses_gpu(spec, bool(visible_gpus())):
        return Budget(host)
    if not visible_gpus():  # the run will use a GPU, but this machine has none
        return Budget(host, None, True)
    return Budget(host, torch.cuda.get_device_properties(0).total_memory, True)


def _uses_gpu(spec: Spec, there: bool) -> bool:
    return there if spec.scale.gpus_per_worker == "auto" else spec.scale.gpus_per_worker > 0


class Planner:
    """Predicts the memory of several specs; traces are cached, so that specs with the same
    trainable part, micro-batch size and precision share one."""

    def __init__(self, schema: Schema, room: Budget) -> None:
        self._schema = schema
        self._room = room
        self._traces: dict[Any, list[MemoryTrace]] = {}

    def plan(self, spec: Spec) -> Forecast:
        size = micro_batch_size(spec, spec.scale.most_workers)
        memory = self.memory(spec)
        layout = Layout.of(spec.train, size, spec.scale.most_workers)
        options = () if self._room.holds(memory) else tuple(self._options(spec, size))
        wanted = spec.train.deepspeed
        asked = wanted.stage if isinstance(wanted, DeepSpeedSpec) else layout.stage
        trace = max(self._trace(spec, size), key=lambda found: found.trainable)
        return Forecast(layout.stage, asked, size, memory, self._room, options, trace=trace)

    def memory(self, spec: Spec) -> Memory:
        size, workers = micro_batch_size(spec, spec.scale.most_workers), spec.scale.most_workers
        layout = Layout.of(spec.train, size, workers)
        return worker_memory(self._trace(spec, size), layout, self._room.on_gpu)

    def _trace(self, spec: Spec, size: int) -> list[MemoryTrace]:
        device = torch.device("cuda" if self._room.on_gpu else "cpu")
        autocast = wants_autocast(spec.train, DistContext(0, 1, device))
        key = (str(spec.train.unfreeze), spec.train.gradient_checkpointing, size, autocast)
        if key not in self._traces:
            with described(spec.model, self._schema) as pretrained:
                self._traces[key] = trace_phases(spec, pretrained, self._schema, size, autocast)
        return self._traces[key]

    def _options(self, spec: Spec, size: int) -> Iterator[Suggestion]:
        """Yield single changes that make the workers fit; if there are none, all changes that keep
        the model's quality together, if these do."""
        found = list(self._single(spec, size))
        if found:
            yield from found
            return
        changes: dict[str, Any] = {"micro_batch_size": 1, "gradient_checkpointing": True}
        if isinstance(spec.train.deepspeed, DeepSpeedSpec):
            changes |= {"deepspeed": _deepspeed(spec, 3, self._room.on_gpu)}
        yield from self._try(spec, changes)

    def _single(self, spec: Spec, size: int) -> Iterator[Suggestion]:
        halves = size.bit_length() - 1
        yield from self._last(spec, "micro_batch_size", [size >> n for n in range(halves, 0, -1)])
        if isinstance(spec.train.deepspeed, DeepSpeedSpec):
            if spec.scale.most_workers > 1:
                for stage in range(spec.train.deepspeed.stage + 1, 4):
                    yield from self._try(spec, {"deepspeed": _deepspeed(spec, stage, False)})
            if self._room.on_gpu and spec.train.deepspeed.offload == "none":
                stage = max(1, spec.train.deepspeed.stage)
                yield from self._try(spec, {"deepspeed": _deepspeed(spec, stage, True)})
        if not spec.train.gradient_checkpointing:
            yield from self._try(spec, {"gradient_checkpointing": True})
        unfreeze = spec.train.unfreeze
        if unfreeze == "all" or isinstance(unfreeze, int):
            depths = unfreeze if isinstance(unfreeze, int) else self._blocks(spec) + 1
            yield from self._last(spec, "unfreeze", list(range(depths)))

    def _last(self, spec: Spec, key: str, values: list[int]) -> Iterator[Suggestion]:
        """Yield the suggestion with the largest value that fits. `values` are in rising order."""
        count = bisect.bisect_left(
            values, True, key=lambda value: not any(self._try(spec, {key: value}))
        )
        if count:
            yield from self._try(spec, {key: values[count - 1]})

    def _blocks(self, spec: Spec) -> int:
        return self._trace(spec, micro_batch_size(spec, spec.scale.most_workers))[0].blocks

    def _try(self, spec: Spec, changes: dict[str, Any]) -> Iterator[Suggestion]:
        """Yield the suggestion if the workers fit with these changes of `train`."""
        changed = spec.model_copy(update={"train": spec.train.model_copy(update=changes)})
        try:
            memory = self.memory(changed)
        except FtrayError:
            return  # the model does not support the change
        if self._room.holds(memory):
            shown = {f"train.{key}": _plain(value) for key, value in changes.items()}
            yield Suggestion(shown, memory)


def _deepspeed(spec: Spec, stage: int, offloads: bool) -> DeepSpeedSpec:
    assert isinstance(spec.train.deepspeed, DeepSpeedSpec)
    offload = "cpu" if offloads else spec.train.deepspeed.offload
    return spec.train.deepspeed.model_copy(update={"stage": stage, "offload": offload})


def _plain(value: Any) -> Any:
    if isinstance(value, DeepSpeedSpec):
        return value.model_dump(exclude_defaults=True) or {"stage": value.stage}
    return value
