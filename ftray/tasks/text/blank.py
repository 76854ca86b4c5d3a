"""Detects empty texts: texts without a visible character, and texts that become no tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Invisible characters that Unicode counts as letters or symbols: Hangul fillers, the Braille blank,
# and the replacement character, which stands for an unreadable one.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800\ufffd"
_PLAIN = re.compile("[!-~]")
_LOOKED_AT = 64
"""Number of first characters that `is_blank` checks one by one. Of the rest, which may be
thousands, it checks each distinct character once."""
_FRAME = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")
_frames: WeakKeyDictionary[PreTrainedTokenizerBase, frozenset[int]] = WeakKeyDictionary()
"""Frames that `frame` has found: looking up special tokens takes transformers long, for a short
text a fifth of the time of encoding it."""


def is_blank(text: str) -> bool:
    """Return whether no character of a text is visible: the text has only white space, controls,
    zero-width characters, and accents without a letter."""
    if _PLAIN.search(text):
        return False
    beginning, rest = text[:_LOOKED_AT], text[_LOOKED_AT:]
    return not any(map(_shows, beginning)) and not any(map(_shows, set(rest)))


def _shows(character: str) -> bool:
    # Count unassigned characters (Cn), which a newer Unicode may define, and private ones (Co),
    # which a font may define, as visible.
    category = unicodedata.category(character)
    return (category[0] in "LNPS" or category in ("Cn", "Co")) and character not in _BLANK


def frame(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the special tokens that a tokenizer puts around any text, without the unknown token.
    They are those that the tokenizer had at the first call."""
    if tokenizer not in _frames:
        found = {getattr(tokenizer, name) for name in _FRAME}
        _frames[tokenizer] = frozenset(found - {None, tokenizer.unk_token_id})
    return _frames[tokenizer]


def has_tokens(ids: Sequence[int], frame: Collection[int]) -> bool:
    """Return whether the ids of a text hold any token but the special ones around it."""
    return any(token not in frame for token in ids)
