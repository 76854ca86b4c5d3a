"""What is asked of a generator, and how its answer is to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One turn of a chat. role: system, user, assistant, or what else the template knows."""

    role: str
    content: str


Prompt = str | tuple[Message, ...] | tuple[int, ...]
"""A text to go on with, the turns of a chat to answer, or token ids."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are greedy and end with the model's own end token.

    max_tokens: of the answer; None: as many as the context has room for.
    temperature: of the softmax; 0: always the likeliest token.
    top_p: draw from the likeliest tokens that have this share together (Holtzman et al. 2020).
    seed: of the draw; None: another one each time.
    stop: texts that end the answer, which does not hold them.
    presence_penalty, frequency_penalty: taken off the logits of a token that the answer holds
    already, once, and for each time that it does.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
