"""Shows the cost of a run, where its time went, and how to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import yaml

from ftray.reports.page import duration, size
from ftray.reports.record import RunRecord
from ftray.reports.run.timing import Spent, spent_by_part
from ftray.reports.tables import Bar


@dataclass(frozen=True)
class Cost:
    """The parameters that trained, and the parts of the run's time."""

    run: RunRecord

    @property
    def blocks(self) -> list[Bar]:
        """The parameters of each part of the model: those that train in any phase, and the rest."""
        parts = [phase["parts"] for phase in self.run.phases if phase.get("parts")]
        if not parts:
            return []
        trained = [max(of[place][2] for of in parts) for place in range(len(parts[0]))]
        most = max(held for _, held, _ in parts[0])
        return [
            Bar(name, f"{size(some)} of {size(held)}", some / most, (held - some) / most)
            for (name, held, _), some in zip(parts[0], trained, strict=True)
        ]

    @property
    def trained(self) -> str:
        start = self.run.start
        cut = f", the lowest {start['trunk']} from the trunk cache" if start.get("trunk") else ""
        return f"{start.get('blocks', 0)} blocks{cut}"

    @cached_property
    def _parts(self) -> list[Spent]:
        end = datetime.fromisoformat(self.run.status.updated).timestamp()
        return spent_by_part(self.run.events, end)

    @property
    def total(self) -> float:
        return sum(part.seconds for part in self._parts)

    @property
    def utilization(self) -> str:
        """Say which share of the devices' peak the steps reached, where it is known."""
        known = [(step["seconds"], step["mfu"]) for step in self.run.steps if "mfu" in step]
        if not known:
            return ""
        share = sum(of * mfu for of, mfu in known) / sum(of for of, _ in known)
        return f"Steps reach {share:.0%} of the GPUs' peak in bf16 (MFU)."

    @property
    def spent(self) -> list[Bar]:
        most = max((part.seconds for part in self._parts), default=1.0)
        return [Bar(name, duration(seconds), seconds / most) for name, seconds in self._parts]


@dataclass(frozen=True)
class Origin:
    """Everything that repeats the run: the command, the versions of code and data, and the spec."""

    run: RunRecord

    @property
    def command(self) -> str:
        return self.run.environment.command

    @property
    def facts(self) -> list[tuple[str, Any]]:
        of, inputs, start = self.run.environment, self.run.inputs, self.run.start
        dirty = ", with changes that were not committed" if of.dirty else ""
        found = [
            ("in the folder", of.folder),
            ("git commit", f"{of.git}{dirty}" if of.git else ""),
            ("data digest", inputs.data_digest if inputs else ""),
            ("base model", self.run.spec["model"]["name_or_path"]),
            ("its commit or digest", inputs.base_commit or inputs.base_digest if inputs else ""),
            ("run folder", self.run.folder),
            ("machine", self._machine),
            ("workers", start and f"{start['workers']}, in {start['precision']}"),
            ("packages", ", ".join(f"{n} {v}" for n, v in of.packages.items())),
            ("Python", f"{of.python}, {of.system}" if of.python else ""),
        ]
        return [(name, value) for name, value in found if value]

    @property
    def _machine(self) -> str:
        of = self.run.environment
        held = f"{of.cores} cores, {of.memory / 1e9:.0f} GB"
        return f"{self.run.status.host}: {of.processor}, {held}" if of.cores else ""

    @property
    def spec(self) -> str:
        shown: str = yaml.safe_dump(_set(self.run.spec), sort_keys=False, allow_unicode=True)
        return shown


def _set(tree: Any) -> Any:
    """Return a spec without the keys that have no value."""
    if not isinstance(tree, dict):
        return tree
    return {name: _set(part) for name, part in tree.items() if part is not None and part != {}}
