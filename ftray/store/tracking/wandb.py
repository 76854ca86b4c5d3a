"""Runs in Weights & Biases, through its own library, which sends in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftray.store.tracking.base import Status, TrackedRun, Tracker, given

_EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}
_STEP = "step"
_ANSWER_S = 30.0


class WandbRun(TrackedRun):
    """One run, or one trial. group: the id of the sweep's run that the trial belongs to."""

    def __init__(self, project: str, entity: str | None, name: str, group: str, kind: str) -> None:
        import wandb  # an extra

        self._files = tempfile.TemporaryDirectory(prefix="ftray-wandb-")
        self._run = wandb.init(
            project=project,
            entity=entity,
            name=name,
            id=f"{group}-{name}".replace(" ", "-") if name != group else name,
            group=group,
            job_type=kind,
            dir=self._files.name if wandb.setup().settings.mode != "offline" else None,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(init_timeout=_ANSWER_S, silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric=_STEP)
        self._ended = False

    def tag(self, tags: Mapping[str, Any]) -> None:
        self._run.summary.update({f"tag/{k}": str(v) for k, v in given(tags).items()})

    def parameters(self, params: Mapping[str, Any]) -> None:
        self._run.config.update(given(params), allow_val_change=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, _STEP: step})

    def attach(self, name: str, content: bytes) -> None:
        file = Path(self._files.name) / "attached" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self._run.save(str(file), base_path=str(file.parents[name.count("/")]), policy="now")

    def end(self, status: Status) -> None:
        if not self._ended:
            self._ended = True
            self._run.finish(exit_code=_EXIT_CODES[status])
            self._files.cleanup()


class WandbTracker(Tracker):
    """A run in a project, and its trials, which W&B shows as a group."""

    def __init__(self, project: str, entity: str | None, run_id: str, kind: str) -> None:
        self._place, self._id = (project, entity), run_id
        self.run = WandbRun(*self._place, run_id, run_id, kind)
        self._children: list[WandbRun] = []

    def child(self, name: str) -> WandbRun:
        self._children.append(WandbRun(*self._place, name, self._id, "trial"))
        return self._children[-1]

    def close(self, status: Status = "FINISHED") -> None:
        for child in self._children:
            child.end("KILLED")
        self.run.end(status)
