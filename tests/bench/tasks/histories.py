"""Made-up histories of items with a known structure, and baselines that rank items for them.

A user walks around rings of items: the items of a ring have a fixed order. With a chance of
`_JUMP` the user goes on in another ring of their taste, three of all rings; with a chance of
`_NOISE` an item comes by its popularity alone, and the walk goes on behind it. In walks of order 1
the next item follows from the last one: counting which item follows which is then nearly the best
that can be done. In walks of order 2 a user has a stride of 1 to 5 in a ring, which two items tell
and one does not: this favours models of whole sequences.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ftray.tasks.recommendation.ranking import ranks, scores_of, sums_of

ITEMS, _RINGS, _TASTE = 600, 30, 3
_JUMP, _NOISE = 0.15, 0.15
_STRIDES = 5


def walks(users: int, order: int, seed: int) -> list[list[int]]:
    """Return the items of each user, 8 to 30."""
    draw = np.random.default_rng(seed)
    rings = draw.permutation(ITEMS).reshape(_RINGS, -1)
    weights = 1 / np.arange(1, ITEMS + 1)
    popular = draw.permutation(ITEMS)
    found = []
    for _ in range(users):
        taste = draw.choice(_RINGS, _TASTE, replace=False)
        ring, place, stride = draw.choice(taste), draw.integers(len(rings[0])), 1
        history: list[int] = []
        for _ in range(draw.integers(8, 31)):
            if draw.random() < _NOISE:
                history.append(int(draw.choice(popular, p=weights / weights.sum())))
                continue
            if not history or draw.random() < _JUMP:
                ring, place = draw.choice(taste), draw.integers(len(rings[0]))
                stride = 1 if order == 1 else int(draw.integers(1, _STRIDES + 1))
            place = (place + stride) % len(rings[0])
            history.append(int(rings[ring][place]))
        found.append(history)
    return found


def write(histories: Sequence[Sequence[int]], file: Path, seed: int) -> None:
    """Write the events of all users as CSV, in any order."""
    events = [
        (user, f"item-{item}", time)
        for user, history in enumerate(histories)
        for time, item in enumerate(history)
    ]
    np.random.default_rng(seed).shuffle(events)
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([("user", "item", "time"), *events])


Score = Callable[[Sequence[int]], np.ndarray]
"""Returns the score of each item behind a history, (ITEMS,)."""


def popularity(train: Sequence[Sequence[int]]) -> Score:
    counts = np.bincount(np.concatenate([np.array(of) for of in train]), minlength=ITEMS)
    return lambda history: counts


def item_to_item(train: Sequence[Sequence[int]]) -> Score:
    """Items that users had together: the cosine of their users, summed over the history (Sarwar et
    al. 2001)."""
    had = np.zeros((len(train), ITEMS))
    for user, history in enumerate(train):
        had[user, list(history)] = 1
    norm = np.sqrt(had.sum(0)) + 1e-9
    near = had.T @ had / norm / norm[:, None]
    np.fill_diagonal(near, 0)
    return lambda history: near[list(history)].sum(0)


def followers(train: Sequence[Sequence[int]]) -> Score:
    """Items by how often they follow the last one (a Markov chain of order 1); of equal ones, by
    popularity."""
    counts = np.zeros((ITEMS, ITEMS))
    for history in train:
        np.add.at(counts, (history[:-1], history[1:]), 1)
    share = popularity(train)([]) / sum(map(len, train))
    return lambda history: counts[history[-1]] + share


BASELINES = {"popularity": popularity, "item to item": item_to_item, "followers": followers}


def measured(score: Score, histories: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the metrics of a baseline on the last item of each history."""
    logits = torch.from_numpy(np.stack([score(of[:-1]) for of in histories])).float()
    truth = torch.tensor([of[-1] for of in histories])
    found = sums_of(torch.zeros(len(truth)), ranks(logits, truth, []))
    return scores_of({name: value.numpy() for name, value in found.items()})
