"""The facts about a run that the verbs of `ftray runs` show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.filesize import decimal as file_size

from ftray.models.artifact.manifest import read_info
from ftray.store.root import MODEL_MANIFEST, Root
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.metrics import EVALUATION

STANDING = {"best", "best_rank", "at", EVALUATION}
"""Keys of an epoch that are no metrics of its model."""


def summary(root: Root, run: RunFolder) -> dict[str, Any]:
    """Return the facts that all the verbs show of a run."""
    status = run.status
    metric = run.spec_tree().get("train", {}).get("metric")
    started = datetime.fromisoformat(status.started)
    return {
        "run": run.run_id,
        "name": run.name,
        "kind": status.kind,
        "state": run.state,
        "message": status.message,
        "started": status.started,
        "seconds": (datetime.fromisoformat(status.updated) - started).total_seconds(),
        "host": status.host,
        "run_dir": run.location.url,
        "model": status.model or None,
        "version": status.version,
        "metric": metric,
        "metrics": _metrics(root, run, metric),
    }


def _metrics(root: Root, run: RunFolder, metric: str) -> dict[str, dict[str, float]]:
    """Return the metrics of the run's model by split; before there is a model, those of the best
    epoch."""
    folder = root.models(run.name) / run.run_id
    if (folder / MODEL_MANIFEST).is_file():
        return {split: numbers(values) for split, values in read_info(folder).metrics.items()}
    epochs = [e for e in run.metrics() if e.get("kind") == "epoch" and _is_number(e.get(metric))]
    if not epochs:
        return {}
    best = (min if metric == "loss" else max)(epochs, key=lambda epoch: epoch[metric])
    return {"validation": numbers(best, but={"epoch", "step", "train_loss"} | STANDING)}


def trial_row(trial: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a trial, the most important cells first: a narrow terminal cannot show
    all."""
    metrics = dict(trial.get("metrics", {}))
    shown = {
        "trial": trial.get("id"),
        "status": trial.get("status"),
        "best": metrics.pop("best", None),
    }
    shown |= trial.get("config", {})
    shown["seconds"] = trial.get("seconds")
    if memory := metrics.pop("memory", None):
        shown["memory"] = file_size(int(memory))
    return shown | metrics


def numbers(values: dict[str, Any], but: Iterable[str] = ()) -> dict[str, float]:
    hidden = set(but)
    return {name: v for name, v in values.items() if _is_number(v) and name not in hidden}


def headline(run: dict[str, Any], split: str) -> float | None:
    return run["metrics"].get(split, {}).get(run["metric"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
