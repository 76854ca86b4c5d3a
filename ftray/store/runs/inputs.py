"""The inputs that a run began with, kept as inputs.json in its folder. A command continues a run
only with equal inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from ftray.errors import StorageError
from ftray.store.files.location import Location


@dataclass(frozen=True)
class Inputs:
    """rows: number of rows of each split; base_commit: commit of a base model from the Hub;
    base_digest: digest of the files of any other base model; deepspeed: the content of
    `deepspeed_file`, the JSON file that the spec names."""

    data_digest: str
    rows: dict[str, int] = field(default_factory=dict)
    base_commit: str = ""
    base_digest: str = ""
    deepspeed: dict[str, Any] | None = None
    deepspeed_file: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def changes(self, since: Inputs) -> Iterator[str]:
        """Say in words how these inputs differ from `since`."""
        if self.data_digest != since.data_digest:
            yield f"the data have changed ({_rows(since.rows)} then, {_rows(self.rows)} now)"
        if self.base_commit != since.base_commit:
            commits = f"{since.base_commit[:12] or 'none'}, now {self.base_commit[:12] or 'none'}"
            yield f"the base model is another one (commit {commits})"
        elif self.base_digest != since.base_digest:
            digests = f"{since.base_digest} then, {self.base_digest} now"
            yield f"the base model's files have changed (digest {digests})"
        if self.deepspeed != since.deepspeed:
            keys = ", ".join(_differing(since.deepspeed or {}, self.deepspeed or {}))
            yield f"the DeepSpeed file has changed ({keys})"


def read_inputs(file: Location) -> Inputs | None:
    """Read inputs.json; None where there is no such file. Raises StorageError for a file that
    cannot be read."""
    try:
        if not file.is_file():
            return None
        return TypeAdapter(Inputs).validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        fix = "restore the file, or delete the run's folder"
        raise StorageError.of(file.url, None, f"cannot be read: {error}", fix) from None


def _rows(rows: dict[str, int]) -> str:
    return f"{sum(rows.values()):,} rows"


def _differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield each differing key with both values: `zero_optimization.stage: 2, now 3`."""
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    return "absent" if value is None else str(value)
