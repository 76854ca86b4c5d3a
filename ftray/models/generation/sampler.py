"""Draws the next token of each answer that is being written."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from ftray.models.generation.sampling_params import Sampling

Finish = Literal["stop", "length", "failed"]
"""Reason for which an answer ended. stop: it drew an end token, or its owner ended it. length: it
reached max_tokens or the context. failed: the model raised an error, or its logits were not
finite."""

LEAST_TEMPERATURE = 1e-4
"""Lower bound of the temperature: lower ones draw as greedy decoding does, and dividing logits by
them would overflow."""
LIKELY = 1024
"""Number of likeliest tokens that contain the nucleus (top_p) of most rows."""


@dataclass(eq=False)
class Answer:
    """An answer that is being written. Its owner may set `finish` from any thread; the decoder then
    removes the answer before its next step.

    tokens: tokens drawn so far, the end token included.
    logprobs: of each token, under the model's own distribution (temperature 1, no penalties).
    error: the model's exception, where it made the answer fail.
    """

    prompt: Sequence[int]
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        # Each answer has its own generator, so that its draws do not depend on other answers.
        self._random = random.Random(self.sampling.seed)

    def __len__(self) -> int:
        """Count the tokens of the prompt and of the answer."""
        return len(self.prompt) + len(self.tokens)

    def ids(self, start: int, end: int) -> list[int]:
        """Return the tokens from `start` to `end`, counted from the prompt's first token."""
        read = len(self.prompt)
        written = self.tokens[max(0, start - read) : max(0, end - read)]
        return [*self.prompt[start:end], *written]

    def chance(self) -> float:
        """Return the next random number, in (0, 1]."""
        return 1 - self._random.random()


def draw(answers: Sequence[Answer], logits: torch.Tensor) -> None:
    """Draw the next token of each answer from logits, (B, V) float32. An answer whose logits do not
    make a distribution fails."""
    whole = logits.logsumexp(-1)
    sound = whole.isfinite().tolist()
    if not all(sound):
        for answer, is_sound in zip(answers, sound, strict=True):
            if not is_sound:
                answer.finish = "failed"
        places = [place for place, is_sound in enumerate(sound) if is_sound]
        answers, logits, whole = [answers[p] for p in places], logits[places], whole[places]
    tokens = _chosen(answers, _penalized(answers, logits))
    logprobs = logits.gather(-1, tokens[:, None])[:, 0] - whole
    for answer, token, logprob in zip(answers, tokens.tolist(), logprobs.tolist(), strict=True):
        answer.tokens.append(token)
        answer.logprobs.append(logprob)


def _penalized(answers: Sequence[Answer], logits: torch.Tensor) -> torch.Tensor:
    """Return logits with penalties: a copy where any answer asks for a penalty, else the tensor
    itself."""
    asking = [
        (place, answer)
        for place, answer in enumerate(answers)
        if answer.sampling.presence_penalty or answer.sampling.frequency_penalty
    ]
    scores = logits.clone() if asking else logits
    for place, answer in asking:
        tokens = torch.tensor(answer.tokens, dtype=torch.long, device=logits.device)
        tokens, times = tokens.unique(return_counts=True)
        sampling = answer.sampling
        scores[place, tokens] -= sampling.presence_penalty + sampling.frequency_penalty * times
    return scores


def _chosen(answers: Sequence[Answer], scores: torch.Tensor) -> torch.Tensor:
    """Return the next token of each answer, (B,): the likeliest at temperature 0, else drawn."""
    tokens = scores.argmax(-1)
    drawing = [place for place, answer in enumerate(answers) if answer.sampling.temperature > 0]
    everything = [place for place in drawing if answers[place].sampling.top_p >= 1]
    nucleus = [place for place in drawing if answers[place].sampling.top_p < 1]
    # Only top_p sampling needs sorted tokens; the cost of sorting grows with the vocabulary.
    for places, drawn in ((everything, _from_all), (nucleus, _from_nucleus)):
        if places:
            tokens[places] = drawn([answers[place] for place in places], scores[places])
    return tokens


def _from_all(answers: Sequence[Answer], scores: torch.Tensor) -> torch.Tensor:
    shares = _probabilities(answers, scores).cumsum(-1)
    return _struck(shares, shares[:, -1:], _chances(answers, shares))[:, 0]


def _from_nucleus(answers: Sequence[Answer], scores: torch.Tensor) -> torch.Tensor:
    """Draw from the nucleus: the fewest of the likeliest tokens that together have a probability of
    top_p (Holtzman et al. 2020)."""
    top_p = scores.new_tensor([[answer.sampling.top_p] for answer in answers])
    probabilities = _probabilities(answers, scores)
    return _likely(probabilities, top_p, _chances(answers, scores), LIKELY)[:, 0]


def _likely(
    probabilities: torch.Tensor, top_p: torch.Tensor, chances: torch.Tensor, size: int
) -> torch.Tensor:
    """Draw a token from each row's nucleus, (B, 1), looking for the nucleus among the `size`
    likeliest tokens first. Sorting a whole vocabulary takes ten times as long, and few rows need
    it."""
    vocabulary = probabilities.shape[-1]
    size = min(size, vocabulary)
    head, order = probabilities.topk(size)
    shares = head.cumsum(-1)
    # Rounding may leave the cumulative probability of all tokens below top_p.
    last = torch.searchsorted(shares, top_p).clamp(max=size - 1)
    tokens = order.gather(-1, _struck(shares, shares.gather(-1, last), chances))
    wide = shares[:, -1] < top_p[:, 0]
    if size < vocabulary and wide.any():
        tokens[wide] = _likely(probabilities[wide], top_p[wide], chances[wide], vocabulary)
    return tokens


def _probabilities(answers: Sequence[Answer], scores: torch.Tensor) -> torch.Tensor:
    heat = [[max(answer.sampling.temperature, LEAST_TEMPERATURE)] for answer in answers]
    return torch.softmax(scores / scores.new_tensor(heat), -1)


def _chances(answers: Sequence[Answer], like: torch.Tensor) -> torch.Tensor:
    return like.new_tensor([[answer.chance()] for answer in answers])


def _struck(shares: torch.Tensor, total: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """Return the index, (B, 1), at which the cumulative `shares`, (B, V), reach the random part
    `chances` of `total`."""
    return torch.searchsorted(shares, total * chances)
