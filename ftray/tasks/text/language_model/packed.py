"""Sequences that lie one behind the other in a row of a batch, and do not see each other.

Positions begin again with each sequence. Where a model of transformers gets such positions and no
attention mask, its masks keep the sequences apart. Flash attention has no masks, and reads
positions only where the batch has one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftray.tasks.features import Batch, Example, Feature, Layout, stacked
from ftray.tasks.text.texts import IDS, padded, plain_token

POSITIONS = "position_ids"
POSITIONS_FEATURE = {POSITIONS: Feature("int32", None, counts=False)}
_LENGTHS = (3, 5)
_ROUNDING = 2e-2
"""Largest difference of logits, relative to the largest logit, that is rounding, in bf16 too."""


def positions_of(lengths: Sequence[int]) -> list[int]:
    """Return the positions of the tokens of sequences of these lengths."""
    return [place for length in lengths for place in range(length)]


def packed(examples: Sequence[Example], features: Mapping[str, Feature], tokenizer: Any) -> Batch:
    """Make a batch of examples with token ids and positions. Each token of the padding is a
    sequence of its own. Examples without positions get an attention mask."""
    if POSITIONS not in examples[0]:
        return padded(examples, features, tokenizer)
    return stacked(examples, features, {IDS: tokenizer.pad_token_id})


def in_few_rows(
    examples: Sequence[Example], ids: Feature, tokenizer: Any, in_one_row: bool = False
) -> Batch:
    """Make a batch of the token ids of examples, each a sequence of its own, in few rows as long as
    the longest of them. in_one_row: whether all lie in one
    row."""
    lengths = [len(example[IDS]) for example in examples]
    layout = Layout.first_fit(lengths, sum(lengths) if in_one_row else max(lengths))
    placed = [{**example, POSITIONS: range(len(example[IDS]))} for example in examples]
    batch = stacked(placed, {IDS: ids, **POSITIONS_FEATURE}, {IDS: tokenizer.pad_token_id}, layout)
    return batch._replace(host=examples)


def reads_one_row(model: Any) -> bool:
    """Return whether the model keeps sequences apart only in a batch of one row."""
    from transformers.utils.generic import is_flash_attention_requested

    return bool(is_flash_attention_requested(model.config))


def mixing(model: Any, tokenizer: Any) -> str:
    """Return why the model cannot keep the sequences of a row apart; empty where it can. model: in
    eval mode."""
    import torch

    token, total, first = plain_token(tokenizer), sum(_LENGTHS), _LENGTHS[0]
    device = next(model.parameters()).device
    ids = torch.arange(token, token + total, device=device)[None]
    positions = torch.tensor([positions_of(_LENGTHS)], device=device)
    try:
        with torch.no_grad():
            together = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            alone = model(input_ids=ids[:, first:], use_cache=False).logits
    except TypeError:
        return "its forward pass takes no positions, by which sequences of a row are kept apart"
    gap = (together[:, first:] - alone).abs().max()
    is_rounding = gap <= _ROUNDING * alone.abs().max()
    return "" if is_rounding else "its attention lets the sequences of a row see each other"
