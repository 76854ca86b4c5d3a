"""Normalizes labels: gives each label one name, for all of its spellings in files.

Numbers and booleans are named by their value, whatever their type: 1, 1.0, Decimal("1.00") and the
texts "1" and "1.0" are "1"; a float32's 0.10000000149011612 is "0.1"; True and "TRUE" are "true".
Texts are put into Unicode's composed form (NFC), invisible characters at both ends are removed, and
each run of white space becomes one plain space. Texts that only look like numbers stay texts:
"007", "1,000", "1e5", and any text with more digits than `_DIGITS`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from ftray.tasks.base import BadRow, is_missing

MISSING = "missing_label"
"""Kind of the fault of a row without a label."""
_SEPARATORS = "|;,"
_DIGITS = 40
_FLOAT32_DIGITS = 9
"""Decimal digits that tell any float32 from any other."""
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]+)?(?<=[0-9])([eE][+-][0-9]{1,3})?")
"""Matches a number. An exponent needs a sign, as programs write it: "1e5" is more often a name."""
_PLAIN_EXPONENT = 20
"""Largest exponent of numbers that are written without one; 1E+300 keeps its exponent."""
# White space inside a text, zero-width spaces included.
_SPACES = re.compile(r"[\s\u200b\u2060\ufeff]+")
_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff]")
# Invisible characters: controls, the soft hyphen, zero-width characters, direction marks.
_UNSEEN = "".join(
    chr(code)
    for first, last in (
        (0x00, 0x20),
        (0x7F, 0xA0),
        (0xAD, 0xAD),
        (0x61C, 0x61C),
        (0x180E, 0x180E),
        (0x200B, 0x200F),
        (0x2028, 0x202F),
        (0x2060, 0x2069),
        (0xFEFF, 0xFEFF),
    )
    for code in range(first, last + 1)
)


def label_name(value: Any) -> str:
    """Return the name of the label that a source holds as `value`. Raises BadRow where the label is
    missing or is no text, number or boolean."""
    if is_missing(value):
        raise BadRow(MISSING)
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, str):
        name = _text_name(value)
    elif isinstance(value, (int, float, Decimal)):
        name = _number_name(value)
    else:
        raise BadRow("label_not_a_name", f"{type(value).__name__}: {value!r}"[:80])
    if not name:
        raise BadRow(MISSING)
    return name


def listed(text: str, fault: str) -> Any:
    """Return the list in a text: JSON, or what stands between |, else between ; or commas. Raises
    BadRow of the kind `fault` where it is no JSON."""
    text = text.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise BadRow(fault, str(error)) from None
    separator = next((mark for mark in _SEPARATORS if mark in text), ",")
    return [part for part in text.split(separator) if part.strip()]


@lru_cache(maxsize=1 << 16)
def _text_name(text: str) -> str:
    words = _ZERO_WIDTH.sub("", text).split()
    name = unicodedata.normalize("NFC", " ".join(words)).strip(_UNSEEN)
    if len(name) <= _DIGITS and _NUMBER.fullmatch(name):
        return _number_name(Decimal(name))
    lower = name.lower()
    return lower if lower in ("true", "false") else name


def _number_name(number: int | float | Decimal) -> str:
    if isinstance(number, int):
        return str(number)
    exact = number if isinstance(number, Decimal) else Decimal(repr(float(number)))
    if not exact.is_finite():
        if exact.is_nan():
            raise BadRow(MISSING)
        return str(float(exact))
    if len(exact.as_tuple().digits) > _FLOAT32_DIGITS:
        exact = _as_float32(exact)
    if exact == exact.to_integral_value() and exact.adjusted() < _DIGITS:
        return str(int(exact))
    plain = exact.normalize()
    return f"{plain:f}" if abs(plain.adjusted()) <= _PLAIN_EXPONENT else str(plain)


def _as_float32(number: Decimal) -> Decimal:
    """Shorten a number to the digits that a float32 needs, if it is a float32 that was written as a
    float64; else return it unchanged."""
    with np.errstate(over="ignore"):
        single = np.float32(float(number))
    is_one = np.isfinite(single) and Decimal(repr(float(single))) == number
    return Decimal(str(single)) if is_one else number
