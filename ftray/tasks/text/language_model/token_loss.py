"""Loss and metrics of tokens that a model learns to write or to find."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ftray.tasks.base import Metrics
from ftray.tasks.metrics import Gathered, MetricState

if TYPE_CHECKING:
    import torch

NO_TOKEN = -1
"""Id in the padding of tokens to learn."""
PADDING = -1e4
"""Logit of padding."""
_SUMS = ("tokens", "right", "loss")


def all_learnt(predicted: torch.Tensor) -> torch.Tensor:
    """Return the loss of logits (..., V) with every token as a token to learn, which takes the most
    memory."""
    import torch

    predicted = predicted.flatten(0, -2).float()
    truth = torch.zeros(len(predicted), dtype=torch.long, device=predicted.device)
    return torch.nn.functional.cross_entropy(predicted, truth, reduction="sum")


def summed_losses(
    logits: torch.Tensor, truth: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the sum of the losses of the tokens of each row, (B,) float32. logits: (B, M, V);
    truth: ids (B, M), `NO_TOKEN` where there is none to learn."""
    import torch

    each = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2),
        truth,
        reduction="none",
        ignore_index=NO_TOKEN,
        label_smoothing=smoothing,
    )
    return each.sum(1)


def no_tokens() -> MetricState:
    """Return the metric state of no tokens."""
    import torch

    return MetricState({name: torch.zeros(()) for name in _SUMS})


def token_state(predicted: torch.Tensor, truth: torch.Tensor) -> MetricState:
    """Return the number of tokens to learn, the number of them that the model finds likeliest, and
    the sum of their losses. predicted: logits (N, V) float32; truth: ids (N,)."""
    import torch

    loss = torch.nn.functional.cross_entropy(predicted, truth, reduction="none")
    right = predicted.argmax(-1) == truth
    found = (torch.ones_like(right), right, loss)
    return MetricState({n: v.double().sum() for n, v in zip(_SUMS, found, strict=True)})


def token_metrics(found: Gathered) -> Metrics:
    """Return loss: mean cross-entropy in nats over all tokens to learn; perplexity: e to the power
    of the loss; accuracy: the share of these tokens that the model finds likeliest; tokens: the
    number of these tokens."""
    tokens, right, total = (float(found.sums[name]) for name in _SUMS)
    assert tokens > 0, "metrics of no rows"
    loss = total / tokens
    perplexity = math.exp(loss) if loss < math.log(1e300) else math.inf
    return {
        "loss": loss,
        "perplexity": perplexity,
        "accuracy": right / tokens,
        "tokens": int(tokens),
    }
