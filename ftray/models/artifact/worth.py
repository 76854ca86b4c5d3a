"""Reports whether fine-tuning was worth its cost: compares the model with two cheap baselines on
the test split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from pydantic import BaseModel, ConfigDict

from ftray.models.artifact.sample_size import about, more_that_settle

_NAMES = {"f1_macro": "macro-F1", "mae": "mean absolute error", "spearman": "Spearman"}
_POINTS = 100
_WIDTH = 80


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Estimate(_Frozen):
    """A metric of the test split with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def is_zero(self) -> bool:
        """Whether the interval contains zero, so that the difference may be none."""
        return self.low <= 0 <= self.high

    def plain(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"

    def points(self) -> str:
        """Format a difference in hundredths."""
        value, low, high = (_POINTS * part for part in (self.value, self.low, self.high))
        return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


Scores = dict[str, Estimate]
"""Metrics of one model, or differences between the metrics of two models; the first is the
headline."""


class Worth(_Frozen):
    """The fine-tuned model beside two baselines on the test split.

    majority: always answers the same: the commonest label of the training split, or its mean.
    probe: logistic or ridge regression on the hidden states of the untrained base model, or on
    tables gradient boosting on the columns.
    over_majority, over_probe: the gain of the fine-tuned model over each, by a bootstrap paired
    over the rows; above zero where the model is better.
    """

    rows: int
    constant: str = "majority label"
    """What `majority` always answers."""
    compared: str = "linear probe"
    """The model of `probe`."""
    in_points: tuple[str, ...] = ("accuracy", "f1_macro")
    """Metrics whose gains are shown in hundredths; others have the unit of the data."""
    majority: Scores
    probe: Scores
    tuned: Scores
    over_majority: Scores
    over_probe: Scores
    seconds: float
    """Seconds from the start of the workers to their end."""
    worker_hours: float
    """Includes the trials of the sweep, where there was one."""
    cost: float | None = None
    """In the unit of scale.price_per_worker_hour."""
    cost_per_point: float | None = None
    """Cost for each hundredth of the headline gained over the probe; None without a gain."""

    @property
    def _short(self) -> str:
        return self.compared.rpartition(" ")[2]

    @property
    def _other(self) -> str:
        """The model of `probe` in a sentence."""
        return f"the {self.compared}" if self._short == "probe" else self.compared

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.tuned)

    def verdict(self) -> str:
        """Say in one sentence whether fine-tuning was worth it."""
        if all(gain.is_zero for gain in self.over_probe.values()):
            return (
                f"the gain over {self._other} is not distinguishable from zero: on these "
                f"{self.rows:,} rows, fine-tuning has not been shown to be worth its cost; "
                f"{self._settled_by()}"
            )
        told = [self._judged(name, gain) for name, gain in self.over_probe.items()]
        return f"against {self._other}, fine-tuning {' and '.join(told)}"

    def _judged(self, metric: str, gain: Estimate) -> str:
        name = name_of(metric)
        if gain.is_zero:
            return f"shows no change of {name} that can be told from zero"
        if metric in self.in_points:
            direction = "gained" if gain.value > 0 else "lost"
            return f"{direction} {abs(_POINTS * gain.value):.1f} points of {name}"
        direction = "lowered" if gain.value > 0 else "raised"
        return f"{direction} {name} by {abs(gain.value):.4f}"

    def _settled_by(self) -> str:
        """Say how many test rows would tell a gain of the measured size from none."""
        gains = self.over_probe.values()
        if not any(gain.value for gain in gains):
            return "the two do equally well on them"
        needed = [more_that_settle(g.value, (g.high - g.low) / 2, self.rows) for g in gains]
        fewest = min((rows for rows in needed if rows is not None), default=None)
        if fewest is None:
            return "a gain as small as the one seen would take over a million test rows to settle"
        return f"about {about(fewest)} test rows would settle a gain of the size that was seen"

    def _gain(self, metric: str, gain: Estimate) -> str:
        return gain.points() if metric in self.in_points else gain.plain()

    @property
    def _rows(self) -> list[tuple[str, Scores]]:
        """The three models, by their names for people."""
        names = (self.constant, self.compared, "fine-tuned")
        return list(zip(names, (self.majority, self.probe, self.tuned), strict=True))

    def lines(self) -> Iterator[str]:
        """Yield the report's lines for people, on a terminal of 80 columns."""
        yield f"on {self.rows:,} test rows, with 95 % intervals:"
        yield _columns("", [name_of(metric) for metric in self.metrics])
        for name, scores in self._rows:
            yield _columns(name, [score.plain() for score in scores.values()])
        what = "points" if len(self.in_points) == len(self.metrics) else "better"
        constant = "majority" if self.constant == "majority label" else "mean"
        for name, gains in ((constant, self.over_majority), (self._short, self.over_probe)):
            shown = [self._gain(metric, gain) for metric, gain in gains.items()]
            yield _columns(f"{what} {'over' if what == 'points' else 'than'} {name}", shown)
        yield from wrap(f"  {self.spent()}", _WIDTH, subsequent_indent="    ")
        yield from wrap(self.verdict(), _WIDTH, subsequent_indent="  ")

    def card(self) -> str:
        """Return a table and a sentence for the model card, in Markdown."""
        gains = [
            (f"points over the {self.constant}", self.over_majority),
            (f"points over {self._other}", self.over_probe),
        ]
        rows = [
            _row("on the test split, 95 % intervals", [name_of(metric) for metric in self.metrics]),
            "|---" * (len(self.metrics) + 1) + "|",
            *(
                _row(name, [score.plain() for score in scores.values()])
                for name, scores in self._rows
            ),
            *(_row(name, [self._gain(m, g) for m, g in of.items()]) for name, of in gains),
        ]
        said = f"{self.verdict()[:1].upper()}{self.verdict()[1:]}. Training took {self._took()}."
        return "\n".join([*rows, "", said])

    def spent(self) -> str:
        return f"training took {self._took()}"

    def _took(self) -> str:
        hours = f"{self.worker_hours:.3g} worker-hours in all, trials included"
        parts = [f"{self.seconds:.0f} s", hours]
        if self.cost is not None:
            parts.append(f"a cost of {self.cost:.3g}")
        if self.cost_per_point is not None:
            headline = name_of(self.metrics[0])
            price = f"{self.cost_per_point:.3g} for each point of {headline}"
            parts.append(f"{price} over the {self._short}")
        return ", ".join(parts)


def _columns(name: str, cells: Sequence[str]) -> str:
    *others, last = cells
    return "  ".join([f"  {name:20}", *(f"{cell:25}" for cell in others), last])


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def name_of(metric: str) -> str:
    """Return the name of a metric for people."""
    return _NAMES.get(metric, metric.replace("_", " "))
