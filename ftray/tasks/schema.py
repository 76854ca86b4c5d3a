"""The schema that a task fits to the training rows: labels, scales of numbers, thresholds."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from ftray.tasks.decision import Decision
from ftray.tasks.info import Modality
from ftray.tasks.tabular.columns import Column, lines_of


class Scale(BaseModel):
    """Mean and standard deviation of each number of an answer, by which training rows are
    standardized."""

    model_config = ConfigDict(frozen=True)
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """1 where all rows have the same number."""
    varies: tuple[bool, ...]
    """Whether rows differ in the number."""

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Compute the scale of (rows, N) float64 values."""
        varies = values.min(0) < values.max(0)
        return cls(
            mean=tuple(values.mean(0).tolist()),
            deviation=tuple(np.where(varies, values.std(0), 1.0).tolist()),
            varies=tuple(varies.tolist()),
        )

    def standardized(self, values: np.ndarray) -> np.ndarray:
        found: np.ndarray = (values - np.array(self.mean)) / np.array(self.deviation)
        return found

    def restored(self, values: np.ndarray) -> np.ndarray:
        found: np.ndarray = values * np.array(self.deviation) + np.array(self.mean)
        return found


class Schema(BaseModel):
    """The part of a model that is fitted to the training rows and not trained.

    labels: sorted; the position of a label is its index. scale: of the numbers to predict.
    thresholds: least score of each label that is given, chosen after the training; empty: a half.
    columns: of a table, without the answer. decision: which of two labels is the positive one.
    items: those of sequences, the commonest first.
    """

    model_config = ConfigDict(frozen=True)
    labels: tuple[str, ...] = ()
    scale: Scale | None = None
    thresholds: tuple[float, ...] = ()
    columns: tuple[Column, ...] = ()
    decision: Decision | None = None
    items: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, Modality]:
        """The columns of a table that a model reads: name -> kind of its values."""
        return {of.name: of.modality for of in self.columns if of.is_read}

    @property
    def value_columns(self) -> list[Column]:
        """The columns of a table with a number or a category in each cell."""
        return [of for of in self.columns if of.is_read and of.kind != "text"]

    def lines(self) -> list[str]:
        """Return lines for people about the columns of a table, or the items of sequences."""
        if self.items:
            return [f"{len(self.items):,} items, the commonest: {', '.join(self.items[:4])}"[:100]]
        return list(lines_of(self.columns)) if self.columns else []

    @property
    def width(self) -> int:
        """Numbers that the model's head gives for a row: one a label, or one a number."""
        return len(self.scale.mean) if self.scale else len(self.labels)


NO_SCHEMA = Schema()
