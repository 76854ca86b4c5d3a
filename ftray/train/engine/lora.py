"""LoRA (Hu et al. 2021) with peft: low-rank adapters train instead of the blocks' own weights.

`inject` puts adapters into all blocks that some phase of the run unfreezes, once, before the phases
are planned. The model stays the same module, but its parameters get new names: the weight of a
layer X becomes X.base_layer.weight, beside X.lora_A.default.weight and X.lora_B.default.weight.
Only peft's parameters and the modules above the blocks (head, pooler, final norm) may train then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftray.errors import ModelError, SpecError
from ftray.models.structure.blocks import (
    FreezePlan,
    Selection,
    plan_freeze,
    plan_parameters,
)
from ftray.models.structure.groups import find_blocks, has_blocks
from ftray.models.structure.placing import without_numbers
from ftray.spec.schema import Spec
from ftray.spec.sections.lora import LoraSpec
from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.phases import plan_phases

if TYPE_CHECKING:  # peft takes seconds to import, and most runs do not use LoRA
    from peft import LoraConfig, LoraModel

ADAPTER = "adapter"
"""The folder within a model folder that holds the adapter for peft to load onto the base model."""

_NAME = "default"
_PREFIX = "base_model.model."
_STREAM = 0x10A
_OPTIONS = "train.lora.options"
_FIX = "name linear layers of the blocks, or write auto"


def inject(model: nn.Module, spec: Spec) -> LoraModel:
    """Inject adapters into `model`; returns peft's wrapper around the model.

    Only the spec's seed determines the initial A and B. Afterwards requires_grad is set on exactly
    the parameters that peft would train. Raises SpecError where the blocks that train have none of
    the target layers.
    """
    from peft import LoraConfig, LoraModel

    lora = spec.train.lora
    assert lora is not None, "called for a spec with train.lora"
    targets = _targets(model, spec.train, lora)
    options = lora.options.model_dump(exclude={"exclude_modules"})
    for option in ("rank_pattern", "alpha_pattern"):
        # peft matches such a pattern against the end of a name, from after a dot on.
        patterns = {pattern: rf"(.*\.)?({pattern})" for pattern in options[option]}
        _matching(targets, patterns, f"{_OPTIONS}.{option}")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
        base_model_name_or_path=spec.model.name_or_path,
        revision=spec.model.revision,
        **options,
    )
    with torch.random.fork_rng(devices=[]):
        words = np.random.SeedSequence([spec.seed, _STREAM]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0] >> 1))
        try:
            return LoraModel(model, config, _NAME)
        except ValueError as error:
            raise SpecError.of("train.lora.targets", lora.targets, str(error), _FIX) from None


def plan_adapters(
    model: nn.Module, selection: Selection, inputs: Mapping[str, torch.Tensor]
) -> FreezePlan:
    """Plan which parameters train under `selection` in a model with injected adapters: among the
    selected parameters, the adapters and those above the blocks. `inputs` is one small batch, (B,
    T) tensors.

    Raises ModelError as `plan_freeze` does, and where a pattern matches frozen weights only.
    """
    adapters = {name for name, p in model.named_parameters() if p.requires_grad}
    may_train = adapters.union(plan_freeze(model, 0, inputs).trainable)
    selected = plan_freeze(model, selection, inputs).trainable
    for pattern in selection if isinstance(selection, tuple) else ():
        if not any(re.search(pattern, name) for name in may_train):
            raise ModelError.of(
                "train.unfreeze",
                pattern,
                "matches only what train.lora keeps frozen",
                f"names of adapters are like {min(adapters)}",
            )
    return plan_parameters(model, [name for name in selected if name in may_train], inputs)


@dataclass(frozen=True)
class Adapter:
    """The adapters and the head: all that peft needs to turn the base model into the trained
    one."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]

    def write(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        self.config.save_pretrained(str(folder))
        save_file(self.tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def take_adapter(tuner: LoraModel, inputs: Mapping[str, torch.Tensor]) -> Adapter:
    """Copy the adapters and the modules above the blocks, before the caller merges the adapters
    into the weights. `inputs` is one small batch."""
    from peft import LoraConfig, get_peft_model_state_dict

    model, config = tuner.model, tuner.peft_config[_NAME]
    assert isinstance(config, LoraConfig)
    above = without_numbers(
        model, inputs, lambda whole, batch: plan_freeze(whole, 0, batch)
    ).trainable
    modules = sorted({name.rpartition(".")[0] for name in above})
    whole = model.state_dict()
    tensors = get_peft_model_state_dict(model, whole, _NAME, save_embedding_layers=False)
    for module in modules:
        tensors |= {name: whole[name] for name in whole if name.startswith(f"{module}.")}
    return Adapter(
        replace(config, modules_to_save=modules, inference_mode=True),
        {f"{_PREFIX}{name}": tensor.detach().clone() for name, tensor in tensors.items()},
    )


def _targets(model: nn.Module, spec: TrainSpec, lora: LoraSpec) -> list[str]:
    """Return the full names of the layers to adapt, in the model's order; at least one."""
    layers = _unfrozen_layers(model, spec)
    if lora.targets == "auto":
        found = [n for n, module in layers.items() if isinstance(module, (nn.Linear, Conv1D))]
    else:
        found = _matching(list(layers), _patterns(lora.targets), "train.lora.targets")
    if lora.options.exclude_modules is not None:
        patterns = _patterns(lora.options.exclude_modules)
        left_out = _matching(found, patterns, f"{_OPTIONS}.exclude_modules")
        found = [name for name in found if name not in left_out]
    if not found:
        is_auto = lora.targets == "auto"
        problem = "leaves no layer of the blocks to adapt"
        fix = "set train.lora to null: no block has a linear layer" if is_auto else _FIX
        raise SpecError.of("train.lora.targets", lora.targets, problem, fix)
    return found


def _unfrozen_layers(model: nn.Module, spec: TrainSpec) -> dict[str, nn.Module]:
    """Return the modules inside the blocks that some phase unfreezes, by name. Of a model without
    blocks in order, all modules that lie in lists of layers."""
    named = dict(model.named_modules())
    if not has_blocks(model):
        lists = tuple(f"{n}." for n, module in named.items() if isinstance(module, nn.ModuleList))
        return {name: module for name, module in named.items() if name.startswith(lists)}
    blocks = find_blocks(model)
    count = len(blocks)
    depth = 0
    for phase in plan_phases(spec, count):
        part = phase.selection
        depth = max(depth, min(part, count) if isinstance(part, int) else count)
    lowest = count - depth
    return {
        name: module
        for name, module in named.items()
        if (block := blocks.of(name)) is not None and block >= lowest
    }


def _patterns(wanted: str | tuple[str, ...]) -> dict[str, str]:
    """Translate a value of peft's target_modules (one regular expression for whole names, or
    several ends of names) into {text as the user wrote it: expression for whole names}."""
    if isinstance(wanted, str):
        return {wanted: wanted}
    return {end: rf"(.*\.)?{re.escape(end)}" for end in wanted}


def _matching(names: Sequence[str], patterns: Mapping[str, str], key: str) -> list[str]:
    """Return the names that match any pattern. Raises SpecError where a pattern matches none."""
    for shown, pattern in patterns.items():
        if not any(re.fullmatch(pattern, name) for name in names):
            fix = f"names are like {names[-1]}" if names else _FIX
            raise SpecError.of(key, shown, "matches no layer that is to be adapted", fix)
    return [n for n in names if any(re.fullmatch(p, n) for p in patterns.values())]
