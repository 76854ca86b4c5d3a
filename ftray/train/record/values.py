"""Words a run's events, spec and origin for tracking services and log.txt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftray.errors import masked
from ftray.spec.schema import Spec
from ftray.store.runs.environment import Environment
from ftray.store.tracking.base import TrackedData, TrackedRun, flatten
from ftray.train.distributed.events import Event

_NOT_METRICS = {"kind", "step", "steps", "epoch", "at"}
"""Numbers of events that are no measurements."""
_BEGINNINGS = ("start", "phase")
"""Events about what is trained from then on: its size is a metric, all else a tag."""


_SYSTEM = {
    "memory": ("system/memory_megabytes", 1e-6),
    "gpu_memory": ("system/gpu_memory_megabytes", 1e-6),
    "cores": ("system/cores_used", 1),
}
"""Measurements of rank 0's process -> their names in tracking services, and the factor of the unit.
MLflow shows names that begin with `system/` on a page of their own."""


def in_words(event: Event) -> str:
    """Return the line of log.txt for an event; empty for those of each step."""
    kind = event["kind"]
    if kind in ("note", "warning"):
        return str(event["message"])
    if kind == "stage":
        return str(event["name"])
    if kind == "epoch":
        found = ", ".join(f"{n} {v:.4f}" for n, v in numbers_of(event).items())
        return f"epoch {event['epoch']}, step {event['step']}: {found}"
    return ""


def parameters(spec: Spec) -> dict[str, Any]:
    """Return the values of the spec that influence the result of a training, by dotted path."""
    apart = {"tune", "serve", "track", "notify", "storage"}
    return flatten(masked(spec.model_dump(mode="json", exclude=apart, exclude_none=True)))


def track(run: TrackedRun, event: Event) -> None:
    """Log the numbers of an event, if the event belongs to a step, and what begins with it."""
    numbers = _named(event)
    if numbers and "step" in event:
        run.log(event["step"], numbers)
    if event["kind"] == "start":
        words = (
            name for name in event if name not in (*_NOT_METRICS, "trainable_parameters", "parts")
        )
        run.tag({name: event[name] for name in words})


def _named(event: Event) -> dict[str, float]:
    """Return the measurements of an event under the names of tracking services: of the split where
    they were made, such as train/loss and validation/accuracy."""
    kind = event["kind"]
    found = numbers_of(event)
    if kind == "step":
        rows, seconds = found.pop("rows", 0), found.pop("seconds", 0)
        system = {name: found.pop(key) * of for key, (name, of) in _SYSTEM.items() if key in found}
        speed = {"train/samples_per_second": rows / seconds} if seconds else {}
        # A point of each phase in each step would slow a tracking service down.
        phases = {f"train/seconds/{n}": v for n, v in event.get("phases", {}).items() if system}
        return {f"train/{n}": value for n, value in found.items()} | speed | phases | system
    if kind == "epoch":
        loss = found.pop("train_loss", None)
        own = {} if loss is None else {"train/loss_of_epoch": loss}
        return {f"validation/{name}": value for name, value in found.items()} | own
    if kind in _BEGINNINGS:
        return {f"train/{n}": v for n, v in found.items() if n == "trainable_parameters"}
    return {f"{kind}/{name}": value for name, value in found.items()}


def numbers_of(event: Event) -> dict[str, float]:
    """Return the measurements of an event."""
    return {n: v for n, v in event.items() if n not in _NOT_METRICS and is_number(v)}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def origin(environment: Environment) -> dict[str, Any]:
    """Return the environment as tags: under MLflow's own names where MLflow shows them."""
    known = {
        "mlflow.user": environment.user,
        "mlflow.source.name": environment.command,
        "mlflow.source.type": "JOB" if environment.job else "LOCAL",
        "mlflow.source.git.commit": environment.git,
        "host": environment.host,
        "ray_job": environment.job,
        "ftray": environment.packages.get("ftray"),
    }
    return {name: value or None for name, value in known.items()}


def splits(spec: Spec, rows: Mapping[str, int], digest: str) -> list[TrackedData]:
    sources = {"train": spec.data.train, "validation": spec.data.validation, "test": spec.data.test}
    uses = {"train": "training", "validation": "validation", "test": "test"}
    columns = tuple(spec.columns.values())
    return [
        TrackedData(
            f"{spec.name} {split}",
            digest,
            str(masked(s if isinstance(s := sources[split], str) else spec.data.train)),
            columns,
            count,
            uses[split],
        )
        for split, count in rows.items()
        if split in uses
    ]
