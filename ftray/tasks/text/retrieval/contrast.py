"""Losses of embeddings. The examples of a row, its texts, stand side by side; each carries the loss
of its row.

Letters in shapes: R rows of a batch, W texts of a row, D numbers of an embedding. Embeddings have
length 1, so that their product is their cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TEMPERATURE = 0.05
"""Temperature: divides cosines before the softmax (Gao et al. 2021)."""
_NEVER = -1e4


def ranking_losses(
    embeddings: torch.Tensor, texts: torch.Tensor, queries: torch.Tensor
) -> torch.Tensor:
    """Return the multiple negatives ranking loss of each row (Henderson et al. 2017), (R,): the
    cross-entropy of a row's positive among the positives and negatives of all rows.

    embeddings: (R, W, D), of the query, its positive and its negatives; texts: (R, W), equal for
    equal texts; queries: (R,), equal for equal queries. No negative is what may be right: a text
    that is equal to the row's query or positive, and the positive of an equal query.
    """
    import torch

    rows = len(embeddings)
    query, positive = embeddings[:, 0], texts[:, 1]
    candidates = embeddings[:, 1:].transpose(0, 1).flatten(0, 1)
    named = texts[:, 1:].T.flatten()
    own = torch.arange(rows, device=embeddings.device)
    is_right = (named == positive[:, None]) | (named == texts[:, :1])
    is_right[:, :rows] |= queries == queries[:, None]
    is_right[own, own] = False
    scores = (query @ candidates.T / TEMPERATURE).masked_fill(is_right, _NEVER)
    return torch.nn.functional.cross_entropy(scores, own, reduction="none")


def label_losses(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the supervised contrastive loss of each text (Khosla et al. 2020), (R,): the mean
    cross-entropy of the texts with the same label among all other texts. It is 0 for a text whose
    label no other text has. embeddings: (R, D); labels: (R,)."""
    import torch

    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    scores = (embeddings @ embeddings.T / TEMPERATURE).masked_fill(itself, _NEVER)
    same = (labels == labels[:, None]) & ~itself
    found = scores.log_softmax(-1).masked_fill(~same, 0.0).sum(-1)
    return -found / same.sum(-1).clamp(min=1)


def cosine_losses(embeddings: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the squared difference between the cosine of each two texts and their score, (R,).
    embeddings: (R, 2, D); scores: (R,)."""
    return ((embeddings[:, 0] * embeddings[:, 1]).sum(-1) - scores).square()
