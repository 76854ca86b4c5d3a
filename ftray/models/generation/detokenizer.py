"""The streaming detokenizer: turns an answer's tokens into text as they come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""The character that a tokenizer decodes invalid or incomplete UTF-8 bytes to."""
LONGEST_CHARACTER = 4
"""Most bytes of a character in UTF-8, and so the most tokens that make up one character."""
WINDOW = 8
"""Most tokens that the detokenizer decodes again with the next token; it drops older ones."""


class TextStream:
    """Returns text as soon as no later token can change it.

    The pieces together equal the text that `tokenizer.decode` makes of all tokens but the special
    ones, up to the first stop text; where two stop texts end with the same character, up to the
    longer one. They differ from the tokenizer's text in two cases. The detokenizer does not clean
    up spaces, since cleaning changes text that was already returned. And where the tokenizer falls
    back to bytes (Llama 2) that are invalid UTF-8, the characters before these bytes stay as they
    were returned.
    """

    stopped = False
    """Whether a stop text came; the stream returns no text after it."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(filter(None, stop))
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token for token, content in added if content.special}
        self._window: list[int] = []
        """The newest tokens, and some before them, on which the placing of spaces depends."""
        self._whole = 0
        """Number of first tokens of the window that decode to whole characters."""
        self._told = ""
        """The beginning of the window's text that was already returned, or is in `_held`."""
        self._held = ""
        """Text that is not returned yet because a stop text may begin with it."""

    def feed(self, token: int) -> str:
        """Add a token; return the text that has become certain, often none."""
        if self.stopped or self._says_nothing(token):
            return ""
        return self._before_stop(self._certain(token))

    def finish(self) -> str:
        """Return the rest of the text, after the last token."""
        if self.stopped:
            return ""
        rest = self._before_stop(self._text()[len(self._told) :])
        return rest + self._held

    def _says_nothing(self, token: int) -> bool:
        """Return whether the token is special, or unknown to the tokenizer: a model's vocabulary
        may be larger."""
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
        # All broken characters may be bytes of one unfinished character, unless more tokens than
        # one character can take have come since the last whole one: then only the last may be.
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
        """Return the window's text, which begins with `_told`."""
        text = self._text()
        if text.startswith(self._told):
            return text
        # Under byte fallback, an invalid or incomplete byte breaks all bytes before it, too.
        self._window, self._whole, self._told = self._window[self._whole :], 0, ""
        return self._text()

    def _shorten(self, start: int, unsure: int) -> None:
        """Drop the tokens before `start` from a long window. unsure: number of last characters that
        are not returned yet."""
        if len(self._window) <= WINDOW:
            return
        self._window = self._window[start:]
        self._whole = max(self._whole - start, 0)
        text = self._text()
        self._told = text[: len(text) - unsure]

    def _before_stop(self, piece: str) -> str:
        """Return the held text and `piece`, up to a stop text, or without the end that a stop text
        may begin with: this end is held."""
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
    """Return the length of the longest proper prefix of `stop` with which `text` ends."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
