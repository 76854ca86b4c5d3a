"""Calibrates a classifier: divides its logits by a temperature (Guo et al. 2017) within the head's
last layer, so that every way of serving the model has calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ftray.tasks import Task
from ftray.tasks.features import Batch
from ftray.train.evaluation.average import Values


def last_layer(model: nn.Module, task: Task, batch: Batch, width: int) -> str | None:
    """Return the name of the linear layer that gives a model's logits, `width` for a row; None
    where the logits are not the output of such a layer."""
    outputs: dict[str, Any] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
            outputs[name] = output

        return hook

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == width
    }
    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    try:
        with torch.no_grad():
            logits = task.forward(model, batch.inputs)["logits"]
    finally:
        for handle in handles:
            handle.remove()
    same = [name for name, output in outputs.items() if _are_equal(output, logits)]
    return same[-1] if same else None


def _are_equal(output: torch.Tensor, logits: torch.Tensor) -> bool:
    # A decoder's head gives logits for each token, of which the last one's are the row's.
    if output.dim() == logits.dim() + 1:
        return bool((output == logits[:, None]).all(-1).any(-1).all())
    return output.shape == logits.shape and torch.equal(output, logits)


def divided(values: Values, layer: nn.Linear, name: str, temperature: float) -> Values:
    """Return trained values with those of a linear layer divided by `temperature`."""
    own: Mapping[str, torch.Tensor] = dict(layer.named_parameters(prefix=name))
    return {**values, **{of: values.get(of, own[of].data) / temperature for of in own}}
