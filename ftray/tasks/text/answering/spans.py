"""Chooses answers from a model's logits: the spans of a window, and of all windows of a context."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ftray.tasks.base import Answered, Outputs
from ftray.tasks.features import Example
from ftray.tasks.text.answering.contexts import context_of
from ftray.tasks.text.windows import places_of

NO = -1e4
"""Score of a span that cannot be an answer."""


class Span(NamedTuple):
    """A part of the context, from the character `start` up to `end`. score: sum of the logits of
    its first and last token."""

    score: float
    start: int
    end: int


def spans_of(
    example: Example, outputs: Outputs, longest: int, most: int
) -> tuple[list[Span], float]:
    """Return the surest spans of a window of at most `longest` tokens, best first, at least one;
    and the score of no answer."""
    import torch

    places = places_of(example)
    length = len(places)
    start, end = (outputs[name][:length] for name in ("start_logits", "end_logits"))
    inside = torch.from_numpy(places[:, 0] >= 0)
    scores = start[:, None] + end[None, :]
    near = torch.ones(length, length, dtype=torch.bool).triu().tril(longest - 1)
    scores = scores.masked_fill(~(near & inside[:, None] & inside[None, :]), 2 * NO)
    found, flat = scores.ravel().topk(min(most, scores.numel()))
    spans = [
        Span(score, int(places[index // length, 0]), int(places[index % length, 1]))
        for score, index in zip(found.tolist(), flat.tolist(), strict=True)
        if score > NO
    ]
    return spans or [Span(NO, 0, 0)], float(start[0] + end[0])


def part_of(example: Example, span: Span) -> str:
    return context_of(example)[span.start : span.end]


class _Candidate(NamedTuple):
    """A span of one window. margin: how much surer it is than no answer in this window, in logits;
    share: its probability in the window."""

    margin: float
    share: float
    span: Span


def ranked_answers(
    windows: Answered, longest: int, threshold: float, most: int
) -> list[dict[str, Any]]:
    """Return the surest answers of a question, best first: `most`, or fewer. longest: most tokens
    of an answer; threshold: how much surer than any span no answer has to be, in logits."""
    candidates = sorted(
        candidate
        for example, outputs in windows
        for candidate in _candidates(example, outputs, longest, most)
    )
    context = context_of(windows[0][0])
    # Windows share tokens: of equal spans the surest stays.
    unique = {(each.span.start, each.span.end): each for each in candidates}
    best = sorted(unique.values(), reverse=True)[:most]
    answers = [_told(each.share, context, each.span.start, each.span.end) for each in best]
    if -best[0].margin > threshold:
        share = 1 / (1 + math.exp(max(-50.0, best[0].margin)))
        answers = [_told(share, context, 0, 0), *answers][:most]
    return answers


def _candidates(
    example: Example, outputs: Outputs, longest: int, most: int
) -> Iterator[_Candidate]:
    import torch

    spans, none = spans_of(example, outputs, longest, most)
    total = sum(float(torch.logsumexp(logits.float(), -1)) for logits in outputs.values())
    for span in spans:
        yield _Candidate(span.score - none, math.exp(min(0.0, span.score - total)), span)


def _told(share: float, context: str, start: int, end: int) -> dict[str, Any]:
    return {"score": share, "start": start, "end": end, "answer": context[start:end]}
