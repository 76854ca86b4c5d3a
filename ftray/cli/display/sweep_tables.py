"""The tables at the end of a sweep: its trials, and the gain and cost of each depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftray.cli.display.table import draw

if TYPE_CHECKING:
    from ftray.tune.depth import Comparison
    from ftray.tune.trial_state import TrialState


# Columns of the table of depths that a narrow terminal may lack, the least important first.
_SPARE = ("cost", "memory", "worker-hours", "s an epoch", "trials", "95 %")


def show_trials(
    say: Callable[[str], None], width: int, metric: str, trials: Sequence[TrialState]
) -> None:
    """Print the sweep's trials, best first."""
    from ftray.tune.wording import trial_rows

    cells = trial_rows(metric, trials)
    for line in draw(list(cells[0]), [list(row.values()) for row in cells], width):
        say(line)


def show_depths(
    say: Callable[[str], None], width: int, metric: str, comparison: Comparison
) -> None:
    """Print the gain and cost of each depth of a sweep, and which depth to take."""
    from ftray.tune.wording import advice, depth_cells

    if not comparison.depths:
        return
    cells = [depth_cells(depth) for depth in comparison.depths]
    rows = [list(row.values()) for row in cells]
    for line in draw(list(cells[0]), rows, width, spare=_SPARE):
        say(line)
    say(advice(metric, comparison))
