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
from ftray.store.tracking.base import flatten

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


def differing(runs: list[RunFolder]) -> dict[str, list[Any]]:
    """Return the values of what the runs trained that differ between the runs."""
    trees = [run.spec_tree() for run in runs]
    # Two sections are no part of the training: serve, and tune beside runs that did not search.
    but = {"serve"} if all(tree.get("tune") for tree in trees) else {"serve", "tune"}
    trained = [
        {key: value for key, value in tree.items() if key not in but} | _open(run, tree)
        for run, tree in zip(runs, trees, strict=True)
    ]
    return {
        key: values
        for key, values in side_by_side(trained).items()
        if any(value != values[0] for value in values)
    }


def _open(run: RunFolder, tree: dict[str, Any]) -> dict[str, str]:
    """Return the keys that a sweep searches over, until the sweep trains its winner."""
    status = run.status
    if status.kind != "tune" or status.model:
        return {}
    if any(record.get("kind") == "step" for record in run.metrics()):
        return {}
    return dict.fromkeys((tree.get("tune") or {}).get("space", {}), "searched")


def side_by_side(trees: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Map each dotted path of any tree to its value in every tree: None where it is absent."""
    flat = [flatten(tree) for tree in trees]
    keys = dict.fromkeys(key for tree in flat for key in tree)
    return {key: [tree.get(key) for tree in flat] for key in keys}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
