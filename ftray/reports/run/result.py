"""Shows the metrics of a run's model beside those of the baselines, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftray.models.artifact.worth import Estimate, Worth, name_of
from ftray.reports.answers import plots
from ftray.reports.figures import SERIES, Chart, chart, gaps
from ftray.reports.page import duration, number, size
from ftray.reports.record import RunRecord
from ftray.reports.tables import Fact, Table, interval, is_number, table_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 100


@dataclass(frozen=True)
class Result:
    """The metrics of a run's model; none before there is a model, but those of its best epoch."""

    run: RunRecord

    @cached_property
    def facts(self) -> list[Fact]:
        """The large numbers at the top of the page."""
        return list(self._facts())

    def _facts(self) -> Iterator[Fact]:
        yield from self._scores()
        yield from self._gain()
        if start := self.run.start:
            most = max(phase["trainable_parameters"] for phase in self.run.phases)
            total = start["total_parameters"]
            yield Fact("trained", size(most), f"of {size(total)} parameters, {most / total:.1%}")
        if rows := self.run.samples.cleaning.get("rows", {}):
            beside = (f"{rows[n]:,} {n}" for n in ("validation", "test") if n in rows)
            yield Fact("training rows", f"{rows.get('train', 0):,}", ", ".join(beside))
        speed = self.run.samples_per_second
        yield Fact("took", duration(self.run.seconds), f"{speed:,.0f} samples/s" if speed else "")

    def _scores(self) -> Iterator[Fact]:
        """Yield the headline metrics: of the test split, else of the best epoch."""
        test = self._metrics_of("test")
        names = [self.run.metric, *self.run.task.headline, "loss"]
        shown = [name for name in dict.fromkeys(names) if name in test][:2]
        for name in shown:
            found = self._intervals.get(name)
            note = f"{number(found.low)} to {number(found.high)}" if found else ""
            yield Fact(f"test {name_of(name)}", number(test[name]), note)
        best = self.run.best_epoch
        if not shown and best is not None:
            value = number(best[self.run.metric])
            yield Fact(f"validation {name_of(self.run.metric)}", value, f"epoch {best['epoch']}")

    def _gain(self) -> Iterator[Fact]:
        if self._worth is None:
            return
        name, found = next(iter(self._worth.over_probe.items()))
        in_points = name in self._worth.in_points
        factor = _POINTS if in_points else 1
        low, high = factor * found.low, factor * found.high
        title = f"{'points over' if in_points else 'better than'} {self._worth.compared}"
        value = f"{factor * found.value:+.3g}"
        yield Fact(title, value, f"{name_of(name)}, {low:+.1f} to {high:+.1f}")

    @property
    def title(self) -> str:
        made = self.run.status
        return f"Result: {made.model}:{made.version}" if made.version else "Result"

    @property
    def verdict(self) -> str:
        return "" if self._worth is None else _sentence(self._worth.verdict())

    @property
    def cost(self) -> str:
        return "" if self._worth is None else _sentence(self._worth.spent())

    @cached_property
    def metrics(self) -> Table:
        """The metrics of each split and baseline, with 95 % intervals where there are any."""
        lines = list(self.measured())
        names = [m for m in self.run.task.metrics if any(m in line for _, line in lines)]
        more = {name for _, line in lines for name, value in line.items() if is_number(value)}
        names += sorted(more - {*names, "step", "epoch"})
        rows = [[title, *(_cell(line.get(name)) for name in names)] for title, line in lines]
        chosen = [place for place, (title, _) in enumerate(lines) if title == "test split"]
        columns = ["", *map(name_of, names)]
        return table_of("Metrics", columns, rows if names else [], chosen=chosen)

    @cached_property
    def groups(self) -> Table:
        """The test metrics of each group of rows, the worst first."""
        groups = () if self.run.info is None else self.run.info.groups
        column = self.run.spec["data"].get("group") or ""
        names = [m for m in self.run.task.metrics if any(m in group.metrics for group in groups)]
        rows = [[group.value, group.rows, *map(group.metrics.get, names)] for group in groups]
        return table_of(f"Test rows by {column}", [column, "rows", *map(name_of, names)], rows)

    def measured(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a title and metrics of each split and baseline."""
        if test := self._metrics_of("test"):
            yield "test split", test | self._intervals
        if worth := self._worth:
            yield worth.constant, dict(worth.majority)
            yield worth.compared, dict(worth.probe)
        if base := self._metrics_of("base_model"):
            yield "base model", base
        if held := self._metrics_of("validation"):
            yield "validation split", held
        elif best := self.run.best_epoch:
            kept = {name: best[name] for name in self.run.task.metrics if name in best}
            yield f"validation, epoch {best['epoch']}", kept

    @property
    def forest(self) -> Chart | None:
        """The headline metric of the model and of the baselines, with intervals."""
        if self._worth is None:
            return None
        worth, name = self._worth, self._worth.metrics[0]
        models = [
            ("fine-tuned", worth.tuned[name]),
            (worth.compared, worth.probe[name]),
            (worth.constant, worth.majority[name]),
        ]

        def draw(axes: Axes) -> None:
            for place, (_, each) in enumerate(models):
                spans = gaps(each.value, each.low, each.high)
                axes.errorbar(
                    each.value, -place, xerr=spans, fmt="o", color=SERIES[0 if not place else 1],
                    markersize=6, elinewidth=2,
                )  # fmt: skip
            axes.set_yticks([0, -1, -2], [title for title, _ in models])
            axes.set_ylim(-2.6, 0.6)
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")

        return chart(f"Test {name_of(name)}, 95 % intervals", draw, size=(380, 150))

    @property
    def _worth(self) -> Worth | None:
        return self.run.info.baselines if self.run.info is not None else None

    def _metrics_of(self, split: str) -> dict[str, Any]:
        return {} if self.run.info is None else dict(self.run.info.metrics.get(split, {}))

    @cached_property
    def _intervals(self) -> dict[str, Estimate]:
        """The 95 % intervals of the test metrics."""
        if self._worth is not None:
            return dict(self._worth.tuned)
        rows, info = self.run.rows, self.run.info
        if rows is None or info is None or len(rows) < rows.split_rows:
            return {}
        found = plots.answers_of_runs(self.run.task, info.labels, [rows])
        return plots.intervals(found) if found is not None else {}


def _sentence(said: str) -> str:
    return f"{said[:1].upper()}{said[1:]}."


def _cell(value: Any) -> Any:
    if isinstance(value, Estimate):
        return interval(value.value, value.low, value.high)
    return value if is_number(value) else None
