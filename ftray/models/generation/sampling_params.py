"""Defines the prompts and the sampling parameters of a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One turn of a chat. role: system, user, assistant, or another that the template knows."""

    role: str
    content: str


Prompt = str | tuple[Message, ...] | tuple[int, ...]
"""A text to continue, the turns of a chat to answer, or token ids."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. The defaults decode greedily and stop at the model's own end token.

    max_tokens: of the answer; None: as many as the context has room for.
    temperature: of the softmax; 0: always the likeliest token.
    top_p: draw from the fewest likeliest tokens with this probability (Holtzman et al. 2020).
    seed: of the draw; None: a new one for each answer.
    stop: texts that end the answer; the answer does not contain them.
    presence_penalty, frequency_penalty: subtracted from the logit of a token that the answer
    already holds, once, and for each occurrence.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
