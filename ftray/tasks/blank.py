"""What has nothing in it: texts in which nothing can be seen, and texts that become no tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Letters and symbols by their category that show nothing: fillers of Hangul, the blank of Braille,
# and what stands for a character that could not be read.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800\ufffd"
_LOOKED_AT = 64
"""Characters of which each is looked at: of the rest each once, as there may be thousands."""
_FRAME = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")


def is_blank(text: str) -> bool:
    """Whether nothing in a text can be seen: it has white space, controls, zero-width characters
    and accents without a letter only."""
    beginning, rest = text[:_LOOKED_AT], text[_LOOKED_AT:]
    return not any(map(_shows, beginning)) and not any(map(_shows, set(rest)))


def _shows(character: str) -> bool:
    # What no letter is yet may be one in a newer Unicode (Cn), or a font's own (Co).
    category = unicodedata.category(character)
    return (category[0] in "LNPS" or category in ("Cn", "Co")) and character not in _BLANK


def frame(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that a tokenizer puts around any text. An unknown word's is not among them."""
    found = {getattr(tokenizer, name) for name in _FRAME}
    return frozenset(found - {None, tokenizer.unk_token_id})


def has_tokens(ids: Sequence[int], frame: Collection[int]) -> bool:
    """Whether a text has become any token but those around it."""
    return any(token not in frame for token in ids)
