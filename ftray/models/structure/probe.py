"""Finds in one forward pass which parameters and modules of a model lie below a boundary and which
above it. No gradient is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftray.models.structure.outputs import total_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftray.models.structure.groups import Blocks


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore the modes of all modules and requires_grad of all parameters on exit."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


class Probe:
    """Records in one forward pass which modules run below and above the boundary.

    first: the block that the boundary state enters; the number of blocks for the state that leaves
    the last block.
    """

    def __init__(self, model: nn.Module, blocks: Blocks, first: int) -> None:
        self.model = model
        self.blocks = blocks
        self.first = first
        self.boundary: torch.Tensor | None = None
        self.finished_below: set[str] = set()
        self.started_above: set[str] = set()

    def run(self, inputs: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
        """Return the names of the modules below and of the parameters above the boundary."""
        parameters = dict(self.model.named_parameters())
        handles = list(self._watch())
        with restored(self.model):
            try:
                self.model.eval()
                self.model.requires_grad_(True)
                above = self._above(parameters, total_of(self.model(**inputs)))
            finally:
                for handle in handles:
                    handle.remove()
        return sorted(self.finished_below - self.started_above), above

    def _watch(self) -> Iterator[Any]:
        # Register the boundary hook first, so that the first trainable block counts as started
        # above the boundary.
        if self.first < len(self.blocks):
            block = self.blocks.first(self.first)
            yield block.register_forward_pre_hook(self._enter_block, with_kwargs=True)
        else:
            yield self.blocks.last.register_forward_hook(self._leave_last_block)
        for name, module in self.model.named_modules():
            yield module.register_forward_pre_hook(self._on_start(name))
            yield module.register_forward_hook(self._on_finish(name))

    def _enter_block(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.boundary is None:
            self.boundary = args[0] if args else kwargs["hidden_states"]

    def _leave_last_block(self, _module: Any, _args: Any, output: Any) -> None:
        self.boundary = output if hasattr(output, "grad_fn") else output[0]
        self.finished_below.update(_names_within(self.model, self.blocks.last))

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

    def _above(self, parameters: dict[str, Any], total: torch.Tensor) -> list[str]:
        assert self.boundary is not None, "the forward pass never reached the boundary block"
        below = depends_on(self.boundary, parameters)
        return [name for name in depends_on(total, parameters) if name not in below]


def depends_on(output: torch.Tensor, parameters: dict[str, Any]) -> dict[str, None]:
    """Return the names of the parameters at the leaves of the autograd graph that a backward pass
    from `output` would walk; no gradient is computed."""
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


def head_parameters(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[str] | None:
    """Return the names of the parameters above the last hidden state of the model's body: pooler
    and head. None for a model that has no body or whose body's output has no
    `last_hidden_state`."""
    body = getattr(model, "base_model", model)  # a model not from transformers: itself
    found: list[torch.Tensor] = []

    def watch(_module: Any, _args: Any, output: Any) -> None:
        state = getattr(output, "last_hidden_state", None)
        if state is not None:
            found.append(state)

    if body is model:
        return None
    handle = body.register_forward_hook(watch)
    try:
        with restored(model):
            model.eval()
            model.requires_grad_(True)
            total = total_of(model(**inputs))
    finally:
        handle.remove()
    if not found:
        return None
    parameters = dict(model.named_parameters())
    below = depends_on(found[-1], parameters)
    return [name for name in depends_on(total, parameters) if name not in below]


def constant_modules(
    model: nn.Module, trainable: list[str], inputs: Mapping[str, Any]
) -> list[str]:
    """Return the modules whose outputs depend on no trainable parameter."""
    import torch
    from torch.utils._pytree import tree_leaves

    ran: set[str] = set()
    moving: set[str] = set()

    def watch(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            ran.add(name)
            parts = [part for part in tree_leaves(output) if part is not None]
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


def _names_within(model: nn.Module, part: nn.Module) -> list[str]:
    inside = {id(module) for module in part.modules()}
    return [name for name, module in model.named_modules() if id(module) in inside]
