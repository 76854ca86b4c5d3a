"""Measures whether a classifier is as sure as it is right, and what a temperature would change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftray.models.artifact.sample_size import wilson

_BINS = 10
_LEAST = 1e-7
"""Probabilities are kept in half precision, where lower ones are zero."""
FEWEST = 50
"""Rows from which on a temperature tells something."""


@dataclass(frozen=True)
class Bin:
    """Rows of similar confidence. sure: their mean confidence; right: the share of right answers,
    with its 95 % interval."""

    rows: int
    sure: float
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error (Naeini et al. 2015) over ten bins of equal width: the mean
    distance between confidence and accuracy, weighted by rows. temperature: the one by which logits
    are divided for the lowest loss (Guo et al. 2017); scaled, scaled_ece: bins and error with
    it, each half of the rows scaled by the temperature of the other half."""

    bins: tuple[Bin, ...]
    ece: float
    temperature: float
    scaled: tuple[Bin, ...]
    scaled_ece: float
    rows: int


def calibration(shares: np.ndarray, truth: np.ndarray) -> Calibration | None:
    """Measure N answers; None of fewer than 50. shares: (N, C) probabilities; truth: (N,) label
    indices."""
    if len(truth) < FEWEST:
        return None
    logits = _logits(shares)
    halves = np.arange(len(truth)) % 2 == 0
    scaled = np.empty_like(logits)
    for half in (halves, ~halves):
        scaled[half] = _softmax(logits[half] / _temperature(logits[~half], truth[~half]))
    plain = _softmax(logits)
    bins, after = _bins(plain, truth), _bins(scaled, truth)
    return Calibration(
        bins, _ece(bins), _temperature(logits, truth), after, _ece(after), len(truth)
    )


def best_temperature(shares: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature that gives the lowest cross-entropy of N answers. Arguments as in
    `calibration`."""
    return _temperature(_logits(shares), truth)


def _logits(shares: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.maximum(shares.astype(np.float64), _LEAST))
    return found


def _temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature with the lowest cross-entropy."""
    from scipy.optimize import minimize_scalar

    def loss(log: float) -> float:
        shares = _softmax(logits / np.exp(log))[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(shares, 1e-12)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded")
    return float(np.exp(found.x))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(1, keepdims=True)
    return shares


def _bins(shares: np.ndarray, truth: np.ndarray) -> tuple[Bin, ...]:
    sure, right = shares.max(1), shares.argmax(1) == truth
    places = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    found = []
    for place in np.unique(places):
        here = places == place
        share, rows = float(right[here].mean()), int(here.sum())
        found.append(Bin(rows, float(sure[here].mean()), share, *wilson(share, rows)))
    return tuple(found)


def _ece(bins: tuple[Bin, ...]) -> float:
    rows = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.sure - each.right) for each in bins) / rows
