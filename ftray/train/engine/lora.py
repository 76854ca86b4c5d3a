"""LoRA (Hu et al. 2021) through peft: low-rank adapters train in place of the blocks' own weights.

Adapters are put into the blocks that some phase of the run unfreezes, once, before anything is
planned; the model stays the module it was, with its parameters under other names: the weight of a
layer X becomes X.base_layer.weight beside X.lora_A.default.weight and X.lora_B.default.weight.
What may train then is what peft made, and what lies above the blocks: head, pooler, final norm.
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
    find_blocks,
    plan_freeze,
    plan_parameters,
)
from ftray.models.structure.placing import without_numbers
from ftray.spec.schema import Spec
from ftray.spec.sections.lora import LoraSpec
from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.phases import plan_phases

if TYPE_CHECKING:  # it takes seconds to import, and most runs adapt nothing
    from peft import LoraConfig, LoraModel

ADAPTER = "adapter"
"""The folder within a model folder that holds what peft opens on the base model."""

_NAME = "default"
_PREFIX = "base_model.model."
_STREAM = 0x10A
_OPTIONS = "train.lora.options"
_FIX = "name linear layers of the blocks, or write auto"


def inject(model: nn.Module, spec: Spec) -> LoraModel:
    """Put adapters into `model`, A and B drawn from the spec's seed alone; returns peft's wrapper
    around it. Afterwards requires_grad marks what peft would train, and nothing else.

    Raises ModelError or SpecError where the model has no blocks, or no such layers in them.
    """
    from peft import LoraConfig, LoraModel

    lora = spec.train.lora
    assert lora is not None, "called for a spec with train.lora"
    targets = _targets(model, spec.train, lora)
    options = lora.options.model_dump(exclude={"exclude_modules"})
    for option in ("rank_pattern", "alpha_pattern"):
        # As peft reads them: over an end of a name that begins after a dot.
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
    """What trains under a selection in a model as `inject` left it: of what is selected the
    adapters and what lies above the blocks. `inputs` is one small batch, (B, T) tensors.

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
    """What peft needs to make the trained model of the base model: adapters and head."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]

    def write(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        self.config.save_pretrained(str(folder))
        save_file(self.tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def take_adapter(tuner: LoraModel, inputs: Mapping[str, torch.Tensor]) -> Adapter:
    """A copy of the adapters and of the modules above the blocks, before they are merged.
    `inputs` is one small batch."""
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
    """Full names of the layers to adapt, in the model's order; at least one."""
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
        raise SpecError.of(
            "train.lora.targets", lora.targets, "leaves no layer of the blocks to adapt", _FIX
        )
    return found


def _unfrozen_layers(model: nn.Module, spec: TrainSpec) -> dict[str, nn.Module]:
    """The modules within the blocks that some phase unfreezes, by name."""
    try:
        prefix, blocks = find_blocks(model)
    except ModelError as error:
        problem, fix = error.problems[0].problem, "set train.lora to null"
        raise ModelError.of("train.lora", type(model).__name__, problem, fix) from None
    count = len(blocks)
    depth = 0
    for phase in plan_phases(spec, count):
        part = phase.selection
        depth = max(depth, min(part, count) if isinstance(part, int) else count)
    inside = tuple(f"{prefix}.{index}." for index in range(count - depth, count))
    return {name: module for name, module in model.named_modules() if name.startswith(inside)}


def _patterns(wanted: str | tuple[str, ...]) -> dict[str, str]:
    """What peft's target_modules takes, one regular expression over whole names or ends of names,
    as the user wrote it -> as an expression over whole names."""
    if isinstance(wanted, str):
        return {wanted: wanted}
    return {end: rf"(.*\.)?{re.escape(end)}" for end in wanted}


def _matching(names: Sequence[str], patterns: Mapping[str, str], key: str) -> list[str]:
    """The names that a pattern matches. Raises SpecError where a pattern matches none."""
    for shown, pattern in patterns.items():
        if not any(re.fullmatch(pattern, name) for name in names):
            fix = f"names are like {names[-1]}" if names else _FIX
            raise SpecError.of(key, shown, "matches no layer that is to be adapted", fix)
    return [n for n in names if any(re.fullmatch(p, n) for p in patterns.values())]
