"""Chooses the golden texts of a model folder.

The folder stores the model's answers to these texts. A service compares its own answers with them
to verify that it runs the same model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ftray.data.encoding.encoded import EncodedSplit
from ftray.spec.schema import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COUNT = 8
_LONGEST = 64
"""Most tokens of a made-up text."""


def golden_texts(spec: Spec, test: EncodedSplit, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the golden texts that export.golden selects: rows of the test split, made-up texts, or
    none."""
    if spec.export.golden == "off":
        return []
    if spec.export.golden == "rows":
        return test.texts(range(min(_COUNT, len(test))))
    return _made_up(tokenizer, min(_LONGEST, spec.data.max_length), spec.seed)


def _made_up(tokenizer: PreTrainedTokenizerBase, longest: int, seed: int) -> list[str]:
    """Make short and long texts of random tokens, which together use many rows of the embedding
    matrix."""
    special = set(tokenizer.all_special_ids)
    words = np.array(sorted(set(tokenizer.get_vocab().values()) - special))
    draw = np.random.default_rng(seed)
    sizes = np.linspace(1, longest, _COUNT, dtype=int)
    return [str(tokenizer.decode(draw.choice(words, size).tolist())) for size in sizes]
