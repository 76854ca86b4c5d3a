"""Finds in one forward pass which parameters and modules of a model lie below a boundary and which
above it. No gradient is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
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


def _train_all(model: nn.Module) -> None:
    """Set requires_grad on all parameters but quantized ones, which cannot have gradients."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


@dataclass(frozen=True)
class Quiet:
    """Names of the modules that stay in eval mode. frozen: modules whose outputs no training
    changes; mixed: modules that apply dropout to such outputs, and also do other things."""

    frozen: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()

    @classmethod
    def of(cls, frozen: AbstractSet[str], dropping: AbstractSet[str]) -> Quiet:
        return cls(tuple(sorted(frozen)), tuple(sorted(dropping - frozen)))


class Probe:
    """Records in one forward pass which modules run below and above the boundary.

    first: the block above the boundary; the number of blocks for a boundary above all of them. In
    an encoder-decoder two states cross the boundary: one from encoder to decoder, or to the upper
    part of the encoder, and one within the decoder, or from its embeddings to its lowest block.
    """

    def __init__(self, model: nn.Module, blocks: Blocks, first: int) -> None:
        self.model = model
        self.blocks = blocks
        self.first = first
        self.is_above = False
        self.crossing: dict[nn.Module, torch.Tensor] = {}
        self.finished_below: set[str] = set()
        self.started_above: set[str] = set()

    def run(self, inputs: Mapping[str, torch.Tensor]) -> tuple[Quiet, list[str]]:
        """Return the modules that stay in eval mode, and the names of the parameters above the
        boundary."""
        parameters = dict(self.model.named_parameters())
        handles = list(self._watch())
        with restored(self.model):
            try:
                self.model.eval()
                _train_all(self.model)
                with dropping(self.model, lambda _: not self.is_above) as below:
                    total = total_of(self.model(**inputs))
            finally:
                for handle in handles:
                    handle.remove()
            above = self._above(parameters, total)
        # The states hold the autograd graph and with it all weights; a cycle of references holds
        # this object until the garbage collector comes.
        self.crossing.clear()
        return Quiet.of(self.finished_below - self.started_above, below), above

    def _watch(self) -> Iterator[Any]:
        # What starts with the first block above the boundary is above it, and what finishes with
        # the last block below the boundary is below it: the order of the hooks says so.
        blocks, first = self.blocks, self.first
        entered = {
            blocks.first(i) for i in (first, blocks.encoder_blocks) if first <= i < len(blocks)
        }
        for module in entered:
            yield module.register_forward_pre_hook(self._enter, with_kwargs=True)
        if first == len(blocks):
            yield blocks.last.register_forward_pre_hook(self._go_below)
        for name, module in self.model.named_modules():
            yield module.register_forward_pre_hook(self._on_start(name))
            yield module.register_forward_hook(self._on_finish(name))
        if blocks.encoder is not None:
            yield blocks.encoder.register_forward_hook(self._leave_encoder)
        if first == len(blocks):
            yield blocks.last.register_forward_hook(self._leave_last_block)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.crossing.setdefault(module, args[0] if args else kwargs["hidden_states"])
        self.is_above = True

    def _go_below(self, *_: Any) -> None:
        self.is_above = False

    def _leave_encoder(self, module: nn.Module, _args: Any, output: Any) -> None:
        if self.first >= self.blocks.encoder_blocks:
            self.crossing[module] = output[0]
        self.is_above = False  # the decoder's embeddings come next

    def _leave_last_block(self, module: nn.Module, _args: Any, output: Any) -> None:
        self.crossing[module] = output if hasattr(output, "grad_fn") else output[0]
        self.is_above = True

    def _on_start(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            if self.is_above:
                self.started_above.add(name)

        return hook

    def _on_finish(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            if not self.is_above:
                self.finished_below.add(name)

        return hook

    def _above(self, parameters: dict[str, Any], total: torch.Tensor) -> list[str]:
        assert self.crossing, "the forward pass never reached the boundary"
        below: dict[str, None] = {}
        for state in self.crossing.values():
            below |= depends_on(state, parameters)
        return [name for name in depends_on(total, parameters) if name not in below]


@contextmanager
def dropping(model: nn.Module, is_frozen: Callable[[torch.Tensor], bool]) -> Iterator[set[str]]:
    """Yield the names of the modules that apply dropout to values for which `is_frozen` is true,
    filled by the forward passes inside the context. Among them are modules that also run elsewhere
    (T5 applies one module to embeddings and to the last states), and modules that apply dropout in
    their own code (BART's decoder, to its embeddings)."""
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    found: set[str] = set()
    running: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, called: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if called is functional.dropout and is_frozen(args[0]):
                found.add(running[-1])
            return called(*args, **(kwargs or {}))

    handles: list[Any] = []
    for name, module in model.named_modules():
        start = module.register_forward_pre_hook(lambda *_, name=name: running.append(name))
        finish = module.register_forward_hook(lambda *_: None if running.pop() else None)
        handles += [start, finish]
    try:
        with Watch():
            yield found
    finally:
        for handle in handles:
            handle.remove()


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
            _train_all(model)
            total = total_of(model(**inputs))
    finally:
        handle.remove()
    if not found:
        return None
    parameters = dict(model.named_parameters())
    below = depends_on(found[-1], parameters)
    return [name for name in depends_on(total, parameters) if name not in below]


def constant_modules(model: nn.Module, trainable: list[str], inputs: Mapping[str, Any]) -> Quiet:
    """Return the modules that stay in eval mode as their outputs, or values to which they apply
    dropout, depend on no trainable parameter."""
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
        constant = dropping(model, lambda value: not value.requires_grad)
        with torch.enable_grad(), constant as dropped:
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Quiet.of(ran - moving, dropped)
