"""Reports whether fine-tuning was worth its cost: compares the model with two cheap baselines on
the test split."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from pydantic import BaseModel, ConfigDict

from ftray.models.artifact.sample_size import about, more_that_settle

_NAMES = {"majority": "majority label", "probe": "linear probe", "tuned": "fine-tuned"}
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


class Scores(_Frozen):
    """The metrics of one model, or the differences between the metrics of two models."""

    accuracy: Estimate
    f1_macro: Estimate


class Worth(_Frozen):
    """The fine-tuned model beside two baselines on the test split.

    majority: always answers the commonest label of the training split. probe: logistic regression
    on the hidden states of the untrained base model. over_majority, over_probe: the gain of the
    fine-tuned model over each, by a bootstrap paired over the rows.
    """

    rows: int
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
    """Cost for each hundredth of accuracy gained over the probe; None without a gain."""

    def verdict(self) -> str:
        """Say in one sentence whether fine-tuning was worth it."""
        gain = self.over_probe
        if gain.accuracy.is_zero and gain.f1_macro.is_zero:
            return (
                "the gain over the linear probe is not distinguishable from zero: on these "
                f"{self.rows:,} rows, fine-tuning has not been shown to be worth its cost; "
                f"{self._settled_by()}"
            )
        told = [_judged("accuracy", gain.accuracy), _judged("macro-F1", gain.f1_macro)]
        return f"against the linear probe, fine-tuning {' and '.join(told)}"

    def _settled_by(self) -> str:
        """Say how many test rows would tell a gain of the measured size from none."""
        gains = (self.over_probe.accuracy, self.over_probe.f1_macro)
        needed = [more_that_settle(g.value, (g.high - g.low) / 2, self.rows) for g in gains]
        fewest = min((rows for rows in needed if rows is not None), default=None)
        if fewest is None:
            return "a gain as small as the one seen would take over a million test rows to settle"
        return f"about {about(fewest)} test rows would settle a gain of the size that was seen"

    def lines(self) -> Iterator[str]:
        """Yield the report's lines for people, on a terminal of 80 columns."""
        yield f"on {self.rows:,} test rows, with 95 % intervals:"
        yield _columns("", "accuracy", "macro-F1")
        for field, name in _NAMES.items():
            scores: Scores = getattr(self, field)
            yield _columns(name, scores.accuracy.plain(), scores.f1_macro.plain())
        for name, gain in (("majority", self.over_majority), ("probe", self.over_probe)):
            yield _columns(f"points over {name}", gain.accuracy.points(), gain.f1_macro.points())
        yield from wrap(f"  {self.spent()}", _WIDTH, subsequent_indent="    ")
        yield from wrap(self.verdict(), _WIDTH, subsequent_indent="  ")

    def card(self) -> str:
        """Return a table and a sentence for the model card, in Markdown."""
        rows = [
            "| on the test split, 95 % intervals | accuracy | macro-F1 |",
            "|---|---|---|",
            *(_row(name, getattr(self, field)) for field, name in _NAMES.items()),
            _row("points over the majority label", self.over_majority, gain=True),
            _row("points over the linear probe", self.over_probe, gain=True),
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
            parts.append(f"{self.cost_per_point:.3g} for each point of accuracy over the probe")
        return ", ".join(parts)


def _columns(name: str, accuracy: str, f1_macro: str) -> str:
    return f"  {name:20}  {accuracy:25}  {f1_macro}"


def _judged(name: str, gain: Estimate) -> str:
    if gain.is_zero:
        return f"shows no change of {name} that can be told from zero"
    direction = "gained" if gain.value > 0 else "lost"
    return f"{direction} {abs(_POINTS * gain.value):.1f} points of {name}"


def _row(name: str, scores: Scores, gain: bool = False) -> str:
    cells = (scores.accuracy, scores.f1_macro)
    return f"| {name} | " + " | ".join(c.points() if gain else c.plain() for c in cells) + " |"
