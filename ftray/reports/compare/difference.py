"""Finds where several runs differ: in their specs, their data and their environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftray.reports.record import RunRecord
from ftray.store.tracking.base import flatten


def differing(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the values of what the runs trained that differ between the runs."""
    # Two sections are no part of the training: serve, and tune beside runs that did not search.
    but = {"serve"} if all(run.spec.get("tune") for run in runs) else {"serve", "tune"}
    return unequal(
        [
            {key: value for key, value in run.spec.items() if key not in but} | _open(run)
            for run in runs
        ]
    )


def origins(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return what differs in the data, the base models and the environments of the runs."""
    found = []
    for run in runs:
        inputs = run.inputs.to_json() if run.inputs else {}
        of = run.environment
        where = {"git commit": of.git, "python": of.python, "machine": run.status.host}
        named = {name: value for name, value in inputs.items() if name != "deepspeed"}
        found.append({**named, **where, "processor": of.processor, "packages": of.packages})
    return unequal(found)


def unequal(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Map each dotted path at which the trees differ to its value in every tree."""
    return {
        key: values
        for key, values in side_by_side(trees).items()
        if any(value != values[0] for value in values)
    }


def side_by_side(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Map each dotted path of any tree to its value in every tree: None where it is absent."""
    flat = [flatten(dict(tree)) for tree in trees]
    keys = dict.fromkeys(key for tree in flat for key in tree)
    return {key: [tree.get(key) for tree in flat] for key in keys}


def _open(run: RunRecord) -> dict[str, str]:
    """Return the keys that a sweep searches over, until the sweep trains its winner."""
    if run.status.kind != "tune" or run.status.model or run.of_kind("step"):
        return {}
    return dict.fromkeys((run.spec.get("tune") or {}).get("space", {}), "searched")
