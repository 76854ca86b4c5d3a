"""What a person sees of a run while it goes on: a moving line on a terminal, else plain lines."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ftray.cli.table import headline

if TYPE_CHECKING:
    from ftray.tune.depth import Comparison
    from ftray.tune.table import Trial

_BASELINES = {"majority": "majority label", "probe": "linear probe", "base": "base model"}
_RATE_STEPS = 20  # samples/s is the mean over this many steps


class TrainDisplay:
    """Shows the events of one training run on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.0f} samples/s  ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._recent: list[tuple[int, float]] = []

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def listen(self, event: dict[str, Any]) -> None:
        """Show one event: a trial's end, the baselines, or a training's start, step or epoch."""
        getattr(self, f"_{event['kind']}")(event)

    def _trial(self, event: dict[str, Any]) -> None:
        if event["status"] == "running":
            return
        config = "  ".join(
            f"{key.split('.')[-1]} {_short(v)}" for key, v in event["config"].items()
        )
        found = event["metrics"].get("best")
        result = event.get("error") or (f"best {found:.4f}" if found is not None else "")
        done = len(event["values"])
        epochs = f"{done} epoch{'' if done == 1 else 's'}" if done else ""
        self.say(
            f"trial {event['id']}  {config}  {epochs}  {result}  {event['status']}  "
            f"{event['seconds']:.1f} s"
        )

    def _baseline(self, event: dict[str, Any]) -> None:
        self.say(
            f"without training, on {event['rows']:,} validation rows ({event['seconds']:.1f} s):"
        )
        for key, name in _BASELINES.items():
            if key in event:
                self.say(f"  {name:14}  {headline(event[key])}")

    def _start(self, event: dict[str, Any]) -> None:
        trainable, total = event["trainable_parameters"], event["total_parameters"]
        self.say(
            f"training {trainable:,} of {total:,} parameters ({trainable / total:.1%}) "
            f"in {event['precision']}; workers: {event['workers']}, nodes: {event['nodes']}"
        )
        if event["trunk"]:
            self.say(f"the lowest {event['trunk']} blocks are read from the trunk cache")
        if event["step"]:
            self.say(f"resumed after step {event['step']}, in epoch {event['epoch'] + 1}")
        if self._task is None:
            self._task = self._bar.add_task("train", total=event["steps"], loss=0.0, rate=0.0)
        self._bar.update(self._task, completed=event["step"])

    def _phase(self, event: dict[str, Any]) -> None:
        trainable, total = event["trainable_parameters"], event["total_parameters"]
        self.say(
            f"epoch {event['epoch'] + 1} trains {trainable:,} parameters ({trainable / total:.1%})"
        )

    def _hang(self, event: dict[str, Any]) -> None:
        self.say(f"rank {event['rank']} makes no progress")

    def _warning(self, event: dict[str, Any]) -> None:
        self.say(f"warning: {event['message']}")

    def _step(self, event: dict[str, Any]) -> None:
        if self._task is None:
            return
        self._recent = [*self._recent, (event["rows"], event["seconds"])][-_RATE_STEPS:]
        self._bar.update(
            self._task, completed=event["step"], loss=event["loss"], rate=self._samples_per_second()
        )

    def _epoch(self, event: dict[str, Any]) -> None:
        self.say(
            f"epoch {event['epoch']}  step {event['step']}  train loss {event['train_loss']:.4f}  "
            f"validation loss {event['loss']:.4f}  {headline(event)}  "
            f"{self._samples_per_second():.0f} samples/s"
        )

    def _samples_per_second(self) -> float:
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(rows for rows, _ in self._recent) / seconds if seconds else 0.0


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_depths(console: Console, metric: str, comparison: Comparison) -> None:
    """What each depth of a sweep bought and cost, and which to take."""
    from ftray.tune.report import advice, depth_cells

    if not comparison.depths:
        return
    table = Table(box=None, header_style="bold", padding=(0, 1))
    rows = [depth_cells(depth) for depth in comparison.depths]
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in ("trains", "") else "right")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    console.print(advice(metric, comparison), markup=False, soft_wrap=True)


def show_trials(console: Console, trials: Sequence[Trial]) -> None:
    """The sweep's table, best first."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    keys = list(trials[0].config)
    for heading in ("trial", *(key.split(".")[-1] for key in keys), "best", "status", "seconds"):
        table.add_column(heading, justify="left" if heading in ("trial", "status") else "right")
    for trial in trials:
        best = trial.metrics.get("best")
        table.add_row(
            trial.id,
            *(_short(trial.config[key]) for key in keys),
            "-" if best is None else f"{best:.4f}",
            trial.status,
            f"{trial.seconds:.1f}",
        )
    console.print(table)
