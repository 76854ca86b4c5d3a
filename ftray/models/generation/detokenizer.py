"""The text of an answer while its tokens come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of bytes that are no character, or not one yet."""
LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the most tokens that one is made of."""
WINDOW = 8
"""Tokens that are decoded again with the next one, before the oldest of them are left out."""


class TextStream:
    """Gives text as soon as no later token can change it.

    The pieces together are what `tokenizer.decode` makes of all tokens without the special ones, up
    to the first stop text; where two end with the same character, up to the longer one. Two things
    are not the tokenizer's: it is not asked to clean up spaces, which changes text that was given;
    and where it falls back to bytes (Llama 2) and these are no UTF-8, the characters before them
    stay what they were.
    """

    stopped = False
    """A stop text came: what follows it is not given."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(filter(None, stop))
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token for token, content in added if content.special}
        self._window: list[int] = []
        """The newest tokens, and some before them, on which it depends where a space goes."""
        self._whole = 0
        """With so many first tokens of the window a character ends."""
        self._told = ""
        """What the window's text begins with and has been given, or is held."""
        self._held = ""
        """What a stop text may begin with."""

    def feed(self, token: int) -> str:
        """The text that is certain with one token more; often none."""
        if self.stopped or self._says_nothing(token):
            return ""
        return self._before_stop(self._certain(token))

    def finish(self) -> str:
        """The rest, when no token comes any more."""
        if self.stopped:
            return ""
        rest = self._before_stop(self._text()[len(self._told) :])
        return rest + self._held

    def _says_nothing(self, token: int) -> bool:
        """A special one, or one of those that a model has beyond its tokenizer's."""
        unknown = self._tokenizer.convert_ids_to_tokens(token) is None
        return unknown or token in self._special

    def _text(self) -> str:
        return self._tokenizer.decode(
            self._window, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _certain(self, token: int) -> str:
        self._window.append(token)
        text = self._synchronized()
        broken = len(text) - len(text.rstrip(BROKEN))
        stuck = len(self._window) - self._whole >= LONGEST_CHARACTER
        # All broken characters may be the bytes of one, but not when there are too many tokens.
        unsure = min(broken, 1) if stuck else broken
        piece = text[len(self._told) : len(text) - unsure]
        self._told += piece
        newest = self._whole
        if not unsure:
            self._whole = len(self._window)
            self._shorten(newest, unsure)
        elif stuck:
            self._shorten(len(self._window) - LONGEST_CHARACTER, unsure)
        return piece

    def _synchronized(self) -> str:
        """The window's text, which begins with what was told of it."""
        text = self._text()
        if text.startswith(self._told):
            return text
        # A fallback's byte that is no character, or not yet, breaks all of those before it.
        self._window, self._whole, self._told = self._window[self._whole :], 0, ""
        return self._text()

    def _shorten(self, start: int, unsure: int) -> None:
        """A long window loses its tokens before `start`. unsure: last characters not told yet."""
        if len(self._window) <= WINDOW:
            return
        self._window = self._window[start:]
        self._whole = max(self._whole - start, 0)
        text = self._text()
        self._told = text[: len(text) - unsure]

    def _before_stop(self, piece: str) -> str:
        """`piece` and what was held before it, less what a stop text may begin with now."""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            _, at = min(found)
            return text[:at]
        cut = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """Most characters that end `text` and begin `stop`, but are not all of it."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
