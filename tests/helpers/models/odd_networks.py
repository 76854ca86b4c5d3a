"""Networks with traits for which the families of transformers have no small example."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class Odd(nn.Module):
    """A model whose answer depends on a number that tracing records as a constant."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        length = sum(1 for _ in range(input_ids.shape[1]))
        logits = (input_ids * attention_mask).sum(1, keepdim=True).float() / length
        return SimpleNamespace(logits=logits)


class Rigid(nn.Module):
    """A model that accepts only as many tokens as it was traced with."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        shape = [int(size) for size in input_ids.shape]
        kept = (input_ids * attention_mask).float()
        return SimpleNamespace(logits=kept.reshape(shape).sum(1))


class TokenNorm(nn.Module):
    """BatchNorm over all tokens of a batch, (B, T, D), padding included."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.norm(states.transpose(1, 2)).transpose(1, 2)


def with_batch_norm(model: Any) -> Any:
    """A BERT classifier with BatchNorm in place of the last LayerNorm of each block."""
    for layer in model.bert.encoder.layer:
        layer.output.LayerNorm = TokenNorm(model.config.hidden_size)
    return model.eval()


class Experts(nn.Module):
    """Expert layers, of which each row uses one, (B, T, D). No row ever uses the last layer."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        chosen = (states[:, 0].detach().abs().sum(-1) * 1000).long() % (len(self.layers) - 1)
        mixed = states.clone()
        for index, layer in enumerate(self.layers):
            rows = chosen == index
            if rows.any():
                mixed[rows] = states[rows] + layer(states[rows])
        return mixed


def with_experts(model: Any, count: int = 6) -> Any:
    """A BERT classifier whose pooler reads the experts' output instead of the hidden states.

    Seeded.
    """
    torch.manual_seed(3)
    experts = Experts(model.config.hidden_size, count)
    model.experts = experts
    model.bert.encoder.register_forward_hook(
        lambda _module, _args, output: replace_states(output, experts(output.last_hidden_state))
    )
    return model


def replace_states(output: Any, states: torch.Tensor) -> Any:
    output["last_hidden_state"] = states
    return output
