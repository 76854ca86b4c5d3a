"""Measures the tensors that a training step keeps alive, by a run of the step on fake tensors.

Under torch's FakeTensorMode tensors have shapes and devices but no data, so the trace reads no
weights and takes no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftray.errors import ModelError, NoEstimate
from ftray.models.inference.rounding import roundable
from ftray.models.limits import setup_of
from ftray.models.pretrained import Pretrained
from ftray.models.structure.activation_checkpointing import enable_checkpointing
from ftray.models.structure.blocks import FreezePlan, plan_freeze
from ftray.models.structure.flops import flop_per_token
from ftray.models.structure.groups import count_blocks
from ftray.models.structure.placing import forgetting, sketch
from ftray.models.structure.quantized import BYTES, quantizable
from ftray.spec.schema import Spec
from ftray.tasks import Task, get_task
from ftray.tasks.schema import Schema
from ftray.train.engine.deepspeed import rounds_weights
from ftray.train.engine.lora import inject, plan_adapters
from ftray.train.engine.phases import plan_phases

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE_TOKENS = 6
_LOOKS_AT_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)


@dataclass(frozen=True)
class MemoryTrace:
    """The parameter counts of one phase of training, and the bytes of one micro-batch.

    activations: bytes that autograd saves for the backward pass, without parameters.
    peak: the most bytes alive at once in the forward and backward passes, without parameters and
    their gradients; peak_with_gradients: the same with the gradients that autograd accumulates.
    """

    blocks: int
    parameters: int
    trainable: int
    largest: int
    """Elements of the largest parameter."""
    activations: int
    peak: int
    peak_with_gradients: int
    light: int = 0
    """Elements of the weights that take less than four bytes."""
    light_bytes: float = 2
    """Bytes of such a weight."""
    flop_per_token: int = 0


def trace_phases(
    spec: Spec, pretrained: Pretrained, schema: Schema, micro_batch_size: int, autocast: bool
) -> list[MemoryTrace]:
    """Trace each phase of the spec with `micro_batch_size` of the longest rows.

    The trace uses CPU operators, which save at least as much as GPU operators. Raises ModelError,
    and NoEstimate where the model's forward pass cannot be traced.
    """
    task, setup = get_task(spec.task), setup_of(pretrained, spec, schema)
    shapes = task.collate(setup, [task.dummy(setup, _PROBE_TOKENS)]).inputs
    longest = task.collate(setup, [task.dummy(setup, task.longest(setup))]).inputs
    plan_phase = plan_freeze if spec.train.lora is None else plan_adapters
    with _without_numbers(spec):
        model = _empty(spec, pretrained, schema)
        model.config.use_cache = False
        if spec.info.reads_text:
            model.config.pad_token_id = setup.processor.pad_token_id
        with forgetting(model):
            probe = _like(shapes, 1)
            phases = plan_phases(spec.train, count_blocks(model))
            plans = [plan_phase(model, phase.selection, probe) for phase in phases]
            if spec.train.gradient_checkpointing:
                enable_checkpointing(model)
            rows = _like(longest, micro_batch_size)
            traces = [_trace(model, task, plan, rows, autocast) for plan in plans]
            if spec.train.weights == "nf4":
                return [
                    replace(trace, light=quantizable(model), light_bytes=BYTES) for trace in traces
                ]
            trains = {name for plan in plans for name in plan.trainable}
            rounds = rounds_weights(spec.train, autocast)
            kept = roundable(model, trains).values() if rounds else ()
            light = sum(parameter.numel() for parameter in kept)
            return [replace(trace, light=light) for trace in traces]


def _empty(spec: Spec, pretrained: Pretrained, schema: Schema) -> PreTrainedModel:
    """Make the model without values, with its adapters."""
    task = get_task(spec.task)
    if spec.train.lora is None:
        return pretrained.empty_model(task, schema)
    # peft moves adapters to the device of their layer, which fake tensors do not take.
    with unset_fake_temporarily(), torch.device("meta"):
        model = pretrained.empty_model(task, schema)
        inject(model, spec)
    return sketch(model)


@contextmanager
def _without_numbers(spec: Spec) -> Iterator[None]:
    try:
        with FakeTensorMode():
            yield
    except (RuntimeError, NotImplementedError) as error:
        # The forward pass reads tensor values, which fake tensors do not have.
        raise _unforeseen(spec, error) from None
    except ModelError as error:
        # The constructor of some models reads tensor values too.
        if not isinstance(error.__cause__, _LOOKS_AT_VALUES):
            raise
        raise _unforeseen(spec, error.__cause__) from None


def _unforeseen(spec: Spec, error: Exception) -> NoEstimate:
    return NoEstimate.of(
        "model.name_or_path",
        spec.model.name_or_path,
        f"its memory cannot be foreseen: {str(error).splitlines()[0]}",
        "train with a small train.micro_batch_size first and watch the memory",
    )


def _like(inputs: Mapping[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """Return inputs of `rows` rows in the shapes and dtypes of `inputs`, which has one."""
    return {n: torch.ones(rows, *value.shape[1:], dtype=value.dtype) for n, value in inputs.items()}


def _trace(
    model: nn.Module,
    task: Task,
    plan: FreezePlan,
    inputs: Mapping[str, torch.Tensor],
    autocast: bool,
) -> MemoryTrace:
    plan.apply(model)
    plan.set_train_mode(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = Watch(model)
    saved = _step(model, task, inputs, autocast, kept)
    for parameter in trained:
        parameter.grad = None
    handles = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in trained]
    released = Watch(model)
    _step(model, task, inputs, autocast, released)
    for handle in handles:
        handle.remove()
    return MemoryTrace(
        blocks=plan.blocks,
        parameters=plan.total_parameters,
        trainable=plan.trainable_parameters,
        largest=max(parameter.numel() for parameter in model.parameters()),
        activations=saved,
        peak=released.peak,
        peak_with_gradients=kept.peak,
        flop_per_token=flop_per_token(model, plan),
    )


def _step(
    model: nn.Module,
    task: Task,
    inputs: Mapping[str, torch.Tensor],
    autocast: bool,
    watch: Watch,
) -> int:
    """Run the forward and backward passes under `watch`; returns the bytes that autograd saves for
    the backward pass."""
    weights = {_key(parameter) for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if _key(tensor) not in weights:
            saved[_key(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with watch:
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
        ):
            loss = task.probe_loss(task.forward(model, inputs))
        loss.backward()
    return sum(saved.values())


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


class Watch(TorchDispatchMode):
    """Tracks the bytes of all storages that operators create inside the mode, until they are
    freed: `alive` is the current sum, `peak` its maximum."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.alive = self.peak = 0
        tensors = [*model.parameters(), *model.buffers()]
        self._known = {_key(tensor) for tensor in tensors}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._meet(leaf.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001
        if key in self._known:
            return
        self._known.add(key)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._part, key, storage.nbytes())

    def _part(self, key: int, count: int) -> None:
        self._known.discard(key)
        self.alive -= count


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001
