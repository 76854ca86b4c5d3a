"""Which parameters train when the top N blocks are unfrozen: found by structure and by one forward
pass, not by a list of model names.

The blocks are the elements of the model's one large `ModuleList`. What lies below the boundary (the
state that enters the first trainable block) is read off the autograd graph: a parameter trains
exactly if the logits depend on it and the boundary state does not. So embeddings, and relative
position tables that feed every block, stay frozen; final norm, pooler and head train.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ftray.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

Selection = int | Literal["all"] | tuple[str, ...]
"""The top N blocks, everything, or the parameters whose names one of the patterns matches."""


@dataclass(frozen=True)
class FreezePlan:
    """What trains and what does not, by name."""

    trainable: tuple[str, ...]
    frozen_modules: tuple[str, ...]
    """Modules that run wholly below the boundary: they stay in eval mode."""
    blocks: int
    trainable_parameters: int
    total_parameters: int

    def apply(self, model: nn.Module) -> None:
        """Set requires_grad on every parameter of `model`."""
        names = set(self.trainable)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)

    def set_train_mode(self, model: nn.Module) -> None:
        """Train mode above the boundary, eval mode (no dropout) below. A module with buffers whose
        own parameters are all frozen is in eval mode wherever it lies: BatchNorm's statistics stay
        with the weights that they belong to."""
        model.train()
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if own and any(True for _ in module.buffers(recurse=False)):
                module.training = any(parameter.requires_grad for parameter in own)
        modules = dict(model.named_modules())
        for name in self.frozen_modules:
            if name in modules:  # blocks may have been cut off since
                modules[name].training = False


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the model's transformer blocks. Raises ModelError where there is no single
    list of them (shared weights, encoder-decoder)."""
    stacks = sorted(_stacks(model), key=lambda found: -_size(found[1]))
    declared = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if not stacks or (declared is not None and declared != len(stacks[0][1])):
        raise _no_blocks(model, "its blocks do not sit in one list of layers")
    if len(stacks) > 1 and _size(stacks[1][1]) > _size(stacks[0][1]) / 4:
        raise _no_blocks(model, f"it has several stacks: {', '.join(name for name, _ in stacks)}")
    return stacks[0]


def plan_freeze(
    model: nn.Module, unfreeze: Selection, inputs: Mapping[str, torch.Tensor]
) -> FreezePlan:
    """What trains under a selection. `inputs` is one small batch, (B, T) tensors.

    Raises ModelError when the model has fewer blocks, or no single list of them, or no parameter
    that a pattern matches.
    """
    if unfreeze == "all":
        everything = [name for name, parameter in model.named_parameters()]
        return _plan(model, everything, [], count_blocks(model))
    if isinstance(unfreeze, tuple):
        return plan_parameters(model, _matching(model, unfreeze), inputs)
    _, blocks = find_blocks(model)
    if unfreeze > len(blocks):
        raise ModelError.of(
            "train.unfreeze",
            unfreeze,
            f"the model has {len(blocks)} blocks",
            f"0 to {len(blocks)}, or all",
        )
    probe = _Probe(model, blocks, len(blocks) - unfreeze)
    below, above = probe.run(inputs)
    return _plan(model, above, below, len(blocks))


def plan_parameters(
    model: nn.Module, trainable: list[str], inputs: Mapping[str, torch.Tensor]
) -> FreezePlan:
    """The plan in which the named parameters train. `inputs` as in `plan_freeze`."""
    with _restored(model):
        return _plan(model, trainable, _constant(model, trainable, inputs), count_blocks(model))


def layer_depths(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How far below the head each parameter lies: 0 head, pooler and final norm, 1 the top block,
    ..., one more than there are blocks for what lies below them all. Raises ModelError."""
    prefix, blocks = find_blocks(model)
    count = len(blocks)
    _, above = _Probe(model, blocks, 0).run(inputs)
    depths = {}
    for name, _parameter in model.named_parameters():
        inside = name.startswith(f"{prefix}.")
        block = name.removeprefix(f"{prefix}.").split(".")[0] if inside else ""
        outside = 0 if name in above else count + 1
        depths[name] = count - int(block) if block.isdigit() else outside
    return depths


def _matching(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ModelError.of(
                "train.unfreeze",
                pattern,
                "matches no parameter of the model",
                f"names are like {names[-1]} or {names[len(names) // 2]}",
            )
    return [name for name in names if any(re.search(pattern, name) for pattern in patterns)]


def _constant(model: nn.Module, trainable: list[str], inputs: Mapping[str, Any]) -> list[str]:
    """The modules whose outputs no trainable parameter has a part in."""
    import torch

    ran: set[str] = set()
    moving: set[str] = set()

    def watch(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            ran.add(name)
            parts = output if isinstance(output, (tuple, list)) else [output]
            parts = [part for part in parts if part is not None]
            if not all(isinstance(p, torch.Tensor) and not p.requires_grad for p in parts):
                moving.add(name)

        return hook

    handles = [module.register_forward_hook(watch(n)) for n, module in model.named_modules()]
    try:
        model.eval()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable)
        with torch.enable_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(ran - moving)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Modes and requires_grad are afterwards as they were before."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


class _Probe:
    """One forward pass that watches what happens below and above the boundary."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleList, first: int) -> None:
        self.model = model
        self.blocks = blocks
        self.first = first
        self.boundary: torch.Tensor | None = None
        self.finished_below: set[str] = set()
        self.started_above: set[str] = set()

    def run(self, inputs: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
        """Names of the modules below and of the parameters above the boundary."""
        parameters = dict(self.model.named_parameters())
        handles = list(self._watch())
        with _restored(self.model):
            try:
                self.model.eval()
                self.model.requires_grad_(True)
                logits = self.model(**inputs).logits
                above = self._above(parameters, logits)
            finally:
                for handle in handles:
                    handle.remove()
        return sorted(self.finished_below - self.started_above), above

    def _watch(self) -> Iterator[Any]:
        # The boundary hook goes first: a block must not count itself as started below.
        if self.first < len(self.blocks):
            block = self.blocks[self.first]
            yield block.register_forward_pre_hook(self._enter_block, with_kwargs=True)
        else:
            yield self.blocks[-1].register_forward_hook(self._leave_last_block)
        for name, module in self.model.named_modules():
            yield module.register_forward_pre_hook(self._on_start(name))
            yield module.register_forward_hook(self._on_finish(name))

    def _enter_block(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.boundary is None:
            self.boundary = args[0] if args else kwargs["hidden_states"]

    def _leave_last_block(self, _module: Any, _args: Any, output: Any) -> None:
        self.boundary = output if hasattr(output, "grad_fn") else output[0]
        self.finished_below.update(_names_within(self.model, self.blocks[-1]))

    def _on_start(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            if self.boundary is not None:
                self.started_above.add(name)

        return hook

    def _on_finish(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            if self.boundary is None:
                self.finished_below.add(name)

        return hook

    def _above(self, parameters: dict[str, Any], logits: torch.Tensor) -> list[str]:
        assert self.boundary is not None, "the forward pass never reached the boundary block"
        below = _depends_on(self.boundary, parameters)
        return [name for name in _depends_on(logits, parameters) if name not in below]


def _depends_on(output: torch.Tensor, parameters: dict[str, Any]) -> dict[str, None]:
    """Names of the parameters at the ends of the graph that a backward pass from `output` would
    walk; no gradient is computed."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        waiting.extend(before for before, _ in node.next_functions)
    return {name: None for name, parameter in parameters.items() if id(parameter) in found}


def _plan(model: nn.Module, trainable: list[str], frozen: list[str], blocks: int) -> FreezePlan:
    sizes = {name: _numel(parameter) for name, parameter in model.named_parameters()}
    return FreezePlan(
        trainable=tuple(trainable),
        frozen_modules=tuple(frozen),
        blocks=blocks,
        trainable_parameters=sum(sizes[name] for name in trainable),
        total_parameters=sum(sizes.values()),
    )


def _numel(parameter: Any) -> int:
    return parameter.numel()


def count_blocks(model: nn.Module) -> int:
    """The length of the model's longest list of blocks; 0 where it has none."""
    return max((len(stack) for _, stack in _stacks(model)), default=0)


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The outermost lists of at least two layers of one class with parameters."""
    from torch import nn

    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in inside) or not isinstance(
            module, nn.ModuleList
        ):
            continue
        alike = len({type(layer) for layer in module}) == 1
        if alike and len(module) > 1 and _size(module):
            inside.append(f"{name}.")
            yield name, module


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _names_within(model: nn.Module, part: nn.Module) -> list[str]:
    inside = {id(module) for module in part.modules()}
    return [name for name, module in model.named_modules() if id(module) in inside]


def _no_blocks(model: nn.Module, problem: str) -> ModelError:
    return ModelError.of(
        "train.unfreeze", type(model).__name__, problem, "set train.unfreeze to all"
    )
