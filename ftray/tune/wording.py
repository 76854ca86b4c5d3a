"""Says in words and cells what a sweep found: its trials, and what each depth gained and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftray.models.artifact.sample_size import about
from ftray.models.artifact.worth import name_of
from ftray.train.distributed.events import Event
from ftray.train.progress import BEST
from ftray.tune.depth import ENOUGH_TRIALS, Comparison, Depth
from ftray.tune.study import Study
from ftray.tune.trial_state import TrialState


def told(course: Study, comparison: Comparison, concurrent: int) -> Event:
    """Return the event that records what a search found. ranking: trials, best first."""
    metric = name_of(course.spec.train.metric)
    depths = [{**d.to_json(), "name": named(d.unfreeze)} for d in comparison.depths]
    return {
        "kind": "searched",
        "ranking": [trial.trial for trial in course.table()],
        "concurrent": concurrent,
        "elapsed": round(course.elapsed, 3),
        "spent": course.spent,
        "depths": depths,
        "advice": advice(metric, comparison) if depths else "",
        "note": note(comparison) if depths else "",
    }


def advice(metric: str, comparison: Comparison) -> str:
    """Return the sentence that recommends a depth, or says what would decide between depths."""
    chosen = comparison.recommended
    if chosen is None:
        return _untold(metric, comparison)
    lead = f"Train {named(chosen.unfreeze)}: {metric} {chosen.metric:.4f}"
    beyond = [d for d in comparison.depths if d.epoch_seconds > chosen.epoch_seconds]
    better = [depth for depth in beyond if comparison.is_better(depth, chosen)]
    if not better:
        return f"{lead}; nothing that trains longer was shown to do better."
    top = max(better, key=lambda depth: comparison.sign * depth.metric)
    return (
        f"{lead} at {chosen.epoch_seconds:.2g} s an epoch; {named(top.unfreeze)} reaches "
        f"{top.metric:.4f} at {top.epoch_seconds:.2g} s."
    )


def _untold(metric: str, comparison: Comparison) -> str:
    best, closest = comparison.best, _closest_open(comparison)
    return (
        f"Which depth to train cannot be told yet: {named(best.unfreeze)} reached {metric} "
        f"{best.metric:.4f} and {named(closest.unfreeze)}, which is faster, {closest.metric:.4f}"
        f"{_why_open(comparison, closest)}. What would tell: {_what_tells(comparison, closest)}."
    )


def _closest_open(comparison: Comparison) -> Depth:
    """Return the depth with the best metric among the faster ones that may be as good as the
    best."""
    return max(comparison.open(), key=lambda depth: comparison.sign * depth.metric)


def _why_open(comparison: Comparison, depth: Depth) -> str:
    best = comparison.best
    lead = comparison.lead(best, depth)
    if lead is None:
        return "; one seed does not tell how far a loss may be off"
    if lead[1] <= 0:
        return f", a difference that {comparison.rows:,} validation rows leave open"
    fewest = min(best.trials, depth.trials)
    return (
        f", but with {fewest} trial{'' if fewest == 1 else 's'} at a depth the other values may "
        "have made the difference"
    )


def _what_tells(comparison: Comparison, depth: Depth) -> str:
    needs = []
    if not comparison.comparable(comparison.best, depth):
        trials = ENOUGH_TRIALS * len(comparison.depths)
        needs.append(
            f"at least {ENOUGH_TRIALS} trials at each depth (tune.trials of {trials} or more, or "
            "tune.searcher: grid)"
        )
    lead = comparison.lead(comparison.best, depth)
    if lead is None:
        needs.append(f"tune.finalists with {len(comparison.depths)} trials and 3 seeds or more")
    elif lead[1] <= 0:
        needs.append(_more(comparison, depth))
    return ", and ".join(needs)


def _more(comparison: Comparison, depth: Depth) -> str:
    """Return the number of seeds or validation rows that makes the intervals narrow enough, as
    text."""
    seeds = min(depth.seeds, comparison.best.seeds)
    if seeds > 1:
        needed = comparison.needed(depth, seeds)
        return f"tune.finalists.seeds of about {about(needed)}" if needed else "no number of seeds"
    needed = comparison.needed(depth, comparison.rows)
    return f"about {about(needed)} validation rows" if needed else "more than a million rows"


def note(comparison: Comparison) -> str:
    """Return the note that explains the intervals and the recommendation."""
    return (
        "Intervals: 95 %, of the trial with that metric, over its seeds or as a share of the "
        f"{comparison.rows:,} validation rows. The choice: the fastest depth that is as good as "
        "the best, where that can be told. Beaten: a depth that trains no longer was shown to be "
        "better."
    )


def named(unfreeze: Any) -> str:
    if isinstance(unfreeze, int):
        plural = "" if unfreeze == 1 else "s"
        return f"the top {unfreeze} block{plural}" if unfreeze else "the head alone"
    return "all blocks" if unfreeze == "all" else str(unfreeze)


def depth_cells(depth: Depth) -> dict[str, str]:
    """Return a row of the table of depths as {heading: cell}."""
    interval = "" if depth.low is None else f"{depth.low:.4f} to {depth.high:.4f}"
    cells = {
        "trains": named(depth.unfreeze),
        "trials": str(depth.trials),
        "best": f"{depth.metric:.4f}",
        "95 %": interval,
        "s an epoch": f"{depth.epoch_seconds:.2f}",
        "memory": "" if depth.memory is None else f"{depth.memory / 1e9:.2f} GB",
        "worker-hours": f"{depth.worker_hours:.3f}",
    }
    if depth.cost is not None:
        cells["cost"] = f"{depth.cost:.2f}"
    cells[""] = "take this" if depth.recommended else "beaten" if depth.beaten else ""
    return cells


def trial_rows(metric: str, trials: Sequence[TrialState]) -> list[dict[str, str]]:
    """Return the rows of the table of trials as {heading: cell}, the most important cells first."""
    return [
        {
            "trial": trial.trial,
            metric: f"{trial.metrics[BEST]:.4f}" if BEST in trial.metrics else "",
            "status": trial.status,
            "seconds": f"{trial.seconds:.1f}",
            **{key.rpartition(".")[2]: _short(trial.config.get(key)) for key in trials[0].config},
        }
        for trial in trials
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
