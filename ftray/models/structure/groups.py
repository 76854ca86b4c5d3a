"""Finds the blocks of a model: its parts in the order in which they run, from stem to head, which
`train.unfreeze` counts from the top.

A block is usually one module of the model's one large `ModuleList`. Convolutions that run behind
this list, before the pooling, are one more block: a head reads what is pooled from them. An
encoder-decoder has two lists: its decoder's blocks lie above its encoder's. A block that runs
several times in a row (ALBERT's groups of layers, Lan et al. 2020) counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ftray.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_CONVOLUTION = 4
"""Axes of a convolution's weight over images."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of one model. names, modules: of each block, the modules that run one after the
    other, by their names in the model. encoder: the encoder of an encoder-decoder, which holds the
    lowest `encoder_blocks` blocks. repeat: whether blocks run several times in a forward pass."""

    names: tuple[tuple[str, ...], ...]
    modules: tuple[tuple[nn.Module, ...], ...]
    encoder: nn.Module | None = None
    encoder_blocks: int = 0
    repeat: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def first(self, block: int) -> nn.Module:
        """Return the module of a block that its input enters."""
        return self.modules[block][0]

    @property
    def last(self) -> nn.Module:
        """The module whose output leaves the top block."""
        return self.modules[-1][-1]

    def of(self, parameter: str) -> int | None:
        """Return the index of the block that a parameter or module belongs to, by its name; None
        for one outside of all blocks."""
        for index, names in enumerate(self.names):
            if any(parameter == name or parameter.startswith(f"{name}.") for name in names):
                return index
        return None


def find_blocks(model: nn.Module) -> Blocks:
    """Return the model's blocks. Raises ModelError where they have no order that ftray knows, or
    share one set of weights."""
    stacks = list(_stacks(model))
    largest = max((_size(stack) for _, stack in stacks), default=0)
    large = [found for found in stacks if _size(found[1]) > largest / 4]
    config = getattr(model, "config", None)
    if len(large) == 2 and getattr(config, "is_encoder_decoder", False):
        return _encoder_decoder(model, large)
    layers = getattr(config, "num_hidden_layers", None)
    groups = getattr(config, "num_hidden_groups", layers)  # of layers with the same weights
    if groups == 1 and layers != 1:
        raise no_blocks(model, f"its {layers} layers share one set of weights")
    unlisted = no_blocks(model, "its blocks do not sit in one list of layers")
    if not stacks:
        raise unlisted
    prefix, stack = max(stacks, key=lambda found: _size(found[1]))
    if layers is not None and groups != len(stack) and not _convolves(stack):
        raise unlisted
    if len(large) > 1:
        raise no_blocks(model, f"it has several stacks: {', '.join(name for name, _ in stacks)}")
    names = _within(prefix, stack)
    if behind := _convolutions_behind(model, prefix):
        names.append(behind)
    return Blocks(tuple(names), _modules(model, names), repeat=groups != layers)


def _encoder_decoder(model: Any, stacks: list[tuple[str, nn.ModuleList]]) -> Blocks:
    """Return the blocks of a model that has these lists of them: the encoder's, and then the
    decoder's."""
    below, above = (_within(prefix, stack) for prefix, stack in stacks)
    names = below + above
    return Blocks(tuple(names), _modules(model, names), model.get_encoder(), len(below))


def _within(prefix: str, stack: nn.ModuleList) -> list[tuple[str, ...]]:
    return [(f"{prefix}.{index}",) for index in range(len(stack))]


def _modules(model: nn.Module, names: list[tuple[str, ...]]) -> tuple[tuple[nn.Module, ...], ...]:
    found = dict(model.named_modules())
    return tuple(tuple(found[name] for name in block) for block in names)


def has_blocks(model: nn.Module) -> bool:
    """Return whether `find_blocks` finds the model's blocks."""
    try:
        find_blocks(model)
    except ModelError:
        return False
    return True


def count_blocks(model: nn.Module) -> int:
    """Return the number of the model's blocks; where `find_blocks` finds none, the length of the
    model's longest list of layers, or 0."""
    try:
        return len(find_blocks(model))
    except ModelError:
        return max((len(stack) for _, stack in _stacks(model)), default=0)


class Part(NamedTuple):
    """A block, or a module outside of the blocks. parameters: numbers in its weights; trained:
    those of them that train."""

    name: str
    parameters: int
    trained: int


def parts_of(model: nn.Module, trainable: Collection[str]) -> tuple[Part, ...]:
    """Return the parts of a model in the order in which its class names them. Parameters outside of
    the blocks belong to the module that is two names deep. trainable: names of parameters."""
    blocks = find_blocks(model) if has_blocks(model) else None
    sizes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        block = None if blocks is None else blocks.of(name)
        if blocks is None or block is None:
            part = ".".join(name.split(".")[:-1][:2])
        else:
            part = blocks.names[block][0]
        held = sizes.setdefault(part, [0, 0])
        held[0] += numbers_in(parameter)
        held[1] += numbers_in(parameter) if name in trainable else 0
    return tuple(Part(name, *held) for name, held in sizes.items())


def block_lines(model: nn.Module, trainable: Collection[str]) -> Iterator[str]:
    """Yield lines for people: the blocks from the lowest to the top, with their sizes, and those
    that train. trainable: names of the parameters that train. Where the model has no blocks
    in order, the line says why, and what `train.unfreeze` may be."""
    try:
        blocks = find_blocks(model)
    except ModelError as error:
        (problem,) = error.problems
        yield f"no blocks from stem to head: {problem.problem}. {problem.fix}"
        return
    sizes = (sum(map(_size, modules)) for modules in blocks.modules)
    parts = []
    lists = (block[0].rpartition(".")[0] for block in blocks.names)
    for (size, _), run in groupby(
        zip(sizes, lists, blocks.names, strict=True), key=itemgetter(0, 1)
    ):
        names = [block[0] for *_, block in run]
        last = f" to {names[-1].rpartition('.')[2]}, each" if len(names) > 1 else ""
        parts.append(f"{names[0]}{last} {size / 1e6:.3g} M")
    yield f"{len(blocks)} blocks from stem to head: {'; '.join(parts)} parameters"
    lowest = min((b for name in trainable if (b := blocks.of(name)) is not None), default=None)
    outside = sum(blocks.of(name) is None for name in trainable)
    told = (
        "none of them trains"
        if lowest is None
        else (f"the top {len(blocks) - lowest} train, from {blocks.names[lowest][0]} on")
    )
    yield f"  {told}; beside them {outside} tensors outside of the blocks"


def no_blocks(model: nn.Module, problem: str) -> ModelError:
    """Return the error about a model without blocks."""
    has_head = getattr(model, "base_model", model) is not model
    values = "all, head, or patterns" if has_head else "all, or to patterns"
    fix = f"set train.unfreeze to {values} of parameter names"
    return ModelError.of("train.unfreeze", type(model).__name__, problem, fix)


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield name and list of each outermost `ModuleList` with at least two layers, all of one
    class, and with parameters."""
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


def _convolutions_behind(model: nn.Module, stack: str) -> tuple[str, ...]:
    """Return the names of the convolutions beside the list `stack` and behind it, and of the norms
    and activations between and after them; none where no convolution is there."""
    parent, _, own = stack.rpartition(".")
    beside = list(model.get_submodule(parent).named_children())
    behind = beside[[name for name, _ in beside].index(own) + 1 :]
    count = 0
    for place, (_, module) in enumerate(behind):
        if _pools(module):
            break
        if _convolves(module) or (count and not _is_linear(module)):
            count = place + 1
    return tuple(f"{parent}.{name}" if parent else name for name, _ in behind[:count])


def _convolves(module: nn.Module) -> bool:
    return any(parameter.dim() == _CONVOLUTION for parameter in module.parameters())


def _is_linear(module: nn.Module) -> bool:
    return any(parameter.dim() == 2 for parameter in module.parameters())


def _pools(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.pooling"


def _size(module: nn.Module) -> int:
    return sum(map(numbers_in, module.parameters()))


def numbers_in(parameter: Any) -> int:
    """Count the numbers in a parameter; a byte of a quantized one holds two."""
    return int(parameter.numel()) * (1 if parameter.is_floating_point() else 2)
