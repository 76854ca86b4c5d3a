"""Makes a base model for sequences of items: a GPT-2 decoder with random weights and a tokenizer
with a token for each item, as in SASRec (Kang & McAuley 2018, 1808.09781). Weights of items are
shared between the input and the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ftray.tasks.new_shape import Shape, line_tokenizer
from ftray.tasks.recommendation.items import ITEMS, MADE_FOR
from ftray.tasks.schema import Schema

_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]"}


class ItemShape(Shape):
    """The shape of the decoder. positions: items of the longest history."""

    layers: int = Field(2, ge=1, le=48)
    width: int = Field(64, ge=8, le=4096)
    heads: int = Field(2, ge=1, le=64)
    dropout: float = Field(0.2, ge=0, lt=1)
    positions: int = Field(512, ge=1, le=65536)

    @property
    def most_tokens(self) -> int | None:
        return self.positions


def read_by(schema: Schema) -> list[Any]:
    """Return the items that a model is made for."""
    return list(schema.items)


def write_base(shape: ItemShape, schema: Schema, folder: Path) -> None:
    """Write the model folder for sequences of the items of `schema`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    names = dict.fromkeys([*_SPECIAL.values(), *schema.items])
    places = {name: place for place, name in enumerate(names)}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    config = GPT2Config(
        vocab_size=len(places),
        n_positions=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **dropout,
    )
    shape.drawn(lambda: GPT2LMHeadModel(config)).save_pretrained(folder)
    line_tokenizer(places, _SPECIAL, **{MADE_FOR: ITEMS}).save_pretrained(folder)
