"""The common part of base models that are made for the data: a shape that their URL names, and
a tokenizer with a token a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
SEPARATOR = "\n"
"""Character between the tokens of a text."""


class Shape(BaseModel):
    """The shape of a transformer. layers: blocks; width: of the hidden states; heads: of attention;
    dropout: in all layers; seed: of the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    layers: int = Field(3, ge=1, le=48)
    width: int = Field(96, ge=8, le=4096)
    heads: int = Field(4, ge=1, le=64)
    dropout: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Positions of the model; None for as many as its rows need."""
        return None

    def drawn(self, make: Callable[[], T]) -> T:
        """Return what `make` makes with the random numbers of the seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return make()


def line_tokenizer(
    vocabulary: Mapping[str, int], special: Mapping[str, str], frame: Any = None, **options: Any
) -> Any:
    """Return a tokenizer of transformers that reads a token from each line of a text. special: name
    of a special token -> the token; frame: post-processor that puts tokens around a text; options:
    further entries of the tokenizer's config."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SEPARATOR, "removed")
    if frame is not None:
        tokenizer.post_processor = frame
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **special,
        **options,
    )
