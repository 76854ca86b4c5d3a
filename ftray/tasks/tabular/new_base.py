"""Makes a base model for a table, where no pretrained one is named: a BERT encoder with random
weights and a tokenizer with a token for each bin and each category of the columns.

It is a plain model folder. The tokens of a number's bins begin on a smooth random curve, so that
neighbouring bins mean about the same from the start (compare the periodic embeddings of Gorishniy
et al. 2022, 2203.05556).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.tasks.new_shape import Shape, line_tokenizer
from ftray.tasks.schema import Schema
from ftray.tasks.tabular.columns import Column
from ftray.tasks.tabular.pieces import COLUMNS, plain

if TYPE_CHECKING:
    import torch

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_LEAST_POSITIONS = 512
_PERIODS = 0.5 ** np.arange(4)
"""Periods of the curve of a column's bins, in ranges of all bins."""
_SPREAD = 0.02
"""Standard deviation of new weights (Devlin et al. 2019)."""


def read_by(schema: Schema) -> list[Any]:
    """Return the columns of a table as JSON; none where all of them are texts."""
    columns = schema.columns if any(column.tokens for column in schema.columns) else ()
    return [column.model_dump(mode="json") for column in columns]


def write_base(shape: Shape, schema: Schema, folder: Path) -> None:
    """Write the model folder for a table with the columns of `schema`."""
    from transformers import BertConfig, BertModel

    columns = schema.columns
    vocabulary = [*_SPECIAL.values(), *dict.fromkeys(plain(t) for of in columns for t in of.tokens)]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        max_position_embeddings=max(_LEAST_POSITIONS, 3 * len(columns) + 2),
        type_vocab_size=1,
        pad_token_id=0,
    )
    model = shape.drawn(lambda: BertModel(config))
    places = {token: place for place, token in enumerate(vocabulary)}
    _smooth(model.get_input_embeddings().weight.data, columns, places, shape.seed)
    model.save_pretrained(folder)
    _tokenizer(places, columns).save_pretrained(folder)


def _smooth(
    weights: torch.Tensor, columns: Sequence[Column], places: dict[str, int], seed: int
) -> None:
    """Put the tokens of each column's bins on a smooth random curve. weights: (tokens, width)."""
    import torch

    draw = np.random.default_rng(seed)
    for column in columns:
        bins = [places[plain(token)] for token in column.bins]
        if len(bins) < 2:
            continue
        at = np.linspace(0, 1, len(bins))[:, None] * 2 * np.pi * 0.5 / _PERIODS
        waves = np.concatenate([np.sin(at), np.cos(at)], axis=1) * np.tile(_PERIODS, 2)
        curve = waves @ draw.normal(size=(waves.shape[1], weights.shape[1]))
        curve *= _SPREAD / curve.std()
        weights[bins] = torch.from_numpy(curve).to(weights.dtype)


def _tokenizer(vocabulary: dict[str, int], columns: Sequence[Column]) -> Any:
    from tokenizers import processors

    first, last = _SPECIAL["cls_token"], _SPECIAL["sep_token"]
    frame = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])],
    )
    told = [column.model_dump(mode="json") for column in columns]
    return line_tokenizer(vocabulary, _SPECIAL, frame, **{COLUMNS: told})
