"""Tokenizes texts, and finds the first tokens of a long text without tokenizing all of it.

The module tokenizes a beginning of the text. The tokenizer's split of a word does not depend on
text after the next word. So the kept tokens equal those of the whole text if two more words follow
them in the beginning. Otherwise the module tokenizes a longer beginning, and in the end the whole
text. This holds for tokenizers that read a text from left to right, as known ones do; for any other
tokenizer the module tokenizes the whole text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ftray.tasks.base import Spend, free

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import BatchEncoding, PreTrainedTokenizerBase

GLANCE = 8
"""Characters for each token of `max_length` in the first beginning that is tokenized."""
_GROWTH = 16
_LOOK_AHEAD = 2
"""Last words of the beginning whose tokens may change with the text after it."""
_LOCAL = {
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Prepend", "Strip", "StripAccents", "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit"),
    *("Digits", "Metaspace", "Punctuation", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
}
"""Normalizers and pre-tokenizers that decide where a word ends by the character after it."""
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_PATTERNS = frozenset((rf"{_HEAD}\p{{N}}|{_TAIL}", rf"{_HEAD}\p{{N}}{{1,3}}|{_TAIL}", " {2,}"))
"""Regular expressions that find word ends so, too: those of Qwen and Llama 3, and runs of
spaces."""


def tokenized(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any
) -> BatchEncoding:
    """Return the token ids of each text, without padding."""
    return tokenizer(
        list(texts),
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no warnings of texts that are too long: ftray counts these itself
        **options,
    )


def first_tokens(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    spend: Spend = free,
) -> list[list[int]]:
    """Return the token ids of each text, cut to `max_length`, special tokens included."""
    found: list[list[int]] = [[] for _ in texts]
    places, size = list(range(len(texts))), GLANCE * max_length
    if any(len(text) > size for text in texts) and not _goes_left_to_right(tokenizer):
        size = max(map(len, texts))
    while places:
        read = [texts[place][:size] for place in places]
        spend(sum(map(len, read)))
        encoded = tokenized(tokenizer, read, truncation=True, max_length=max_length)
        for place, ids in zip(places, encoded["input_ids"], strict=True):
            found[place] = ids
        places = [
            place
            for row, place in enumerate(places)
            if len(texts[place]) > size and not _is_settled(encoded[row])
        ]
        size *= _GROWTH
    return found


def _is_settled(encoding: Encoding) -> bool:
    """Return whether enough words follow the kept tokens in the tokenized beginning."""
    if not encoding.overflowing:
        return False
    return _last_word(encoding) + _LOOK_AHEAD <= _last_word(encoding.overflowing[-1])


def _last_word(encoding: Encoding) -> int:
    return max((word for word in encoding.word_ids if word is not None), default=-1)


def _goes_left_to_right(tokenizer: PreTrainedTokenizerBase) -> bool:
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        return False
    backend = cast(Any, tokenizer).backend_tokenizer
    return all(map(_is_known, (backend.normalizer, backend.pre_tokenizer)))


def _is_known(component: Any) -> bool:
    return component is None or _is_local(json.loads(component.__getstate__()))


def _is_local(state: Mapping[str, Any]) -> bool:
    kind = state["type"]
    if kind == "Sequence":
        return all(map(_is_local, state.get("normalizers", state.get("pretokenizers", ()))))
    if kind in ("Replace", "Split"):
        return state["pattern"].get("Regex", " {2,}") in _PATTERNS
    return kind in _LOCAL


def drop_tokens(
    ids: np.ndarray, probability: float, special: Collection[int], random: np.random.Generator
) -> np.ndarray:
    """Return which tokens of a row stay in the random deletion of EDA (Wei & Zou 2019): (tokens,)
    bool.

    ids: (tokens,). The first token, the last token and tokens in `special` always stay. Each other
    token is dropped with that probability, but at least one of them stays.
    """
    stays = np.isin(ids, list(special))
    stays[[0, -1]] = True
    free = np.flatnonzero(~stays)
    if not len(free):
        return stays
    stays[free] = random.random(len(free)) >= probability
    # Draw in any case, so that the generator's state afterwards does not depend on the outcome.
    saved = random.choice(free)
    if not stays[free].any():
        stays[saved] = True
    return stays
