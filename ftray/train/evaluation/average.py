"""Averages the weights of a run's best epochs: the greedy soup of Wortsman et al. 2022."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ftray.spec.sections.training import TrainSpec

Values = Mapping[str, torch.Tensor]
"""Trained parameters and buffers by name."""


@dataclass(frozen=True)
class Average:
    """The mean of the trained values after `epochs`, the best one first. before, after: value of
    train.metric on the validation split with the best epoch alone, and with the mean."""

    values: Values
    epochs: tuple[int, ...]
    before: float
    after: float
    metric: str

    def line(self) -> str:
        alone = f"epoch {self.epochs[0]} alone: validation {self.metric} {self.before:.4g}"
        if len(self.epochs) == 1:
            return f"no average of epochs is better than {alone}"
        epochs = ", ".join(map(str, self.epochs))
        return f"the average of epochs {epochs} has {self.after:.4g}; {alone}"


def greedy(
    epochs: Sequence[int],
    read: Callable[[int], Values],
    metric: Callable[[Values], float],
    train: TrainSpec,
    base: Values,
) -> Average:
    """Average the values after `epochs`, of which the first is the best one: each further epoch
    joins where train.metric is better with it than without it.

    read: returns the values after the epoch at a place of `epochs`; metric: of values; base: the
    values of what trained in some of the epochs only.
    """
    values = read(0)
    before = after = metric(values)
    joined = [epochs[0]]
    for place in range(1, len(epochs)):
        mean = _with(values, read(place), len(joined), base)
        found = metric(mean)
        if found < after if train.metric_mode == "min" else found > after:
            values, after = mean, found
            joined.append(epochs[place])
    return Average(values, tuple(joined), before, after, train.metric)


def _with(mean: Values, more: Values, count: int, base: Values) -> Values:
    """Return the mean of `count` values and one more. Integers, such as BatchNorm's number of
    batches, stay as they are."""
    found = {}
    for name in mean.keys() | more.keys():
        value, other = (of[name] if name in of else base[name].float() for of in (mean, more))
        found[name] = value.lerp(other, 1 / (count + 1)) if value.is_floating_point() else value
    return found
