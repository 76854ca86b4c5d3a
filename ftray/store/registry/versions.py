"""A version of a model, and the references that pick one: NAME, NAME@alias, NAME:VERSION."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ftray.errors import RegistryError
from ftray.spec.fields import is_alias
from ftray.store.files.location import Location
from ftray.store.root import MODEL_MANIFEST

NEWEST = "latest"  # NAME@latest is NAME: MLflow reserves the word, so no alias can contradict it
_METRIC = "metric."
_REFERENCE = re.compile(r"(?P<name>[^@:]+)(?:@(?P<alias>[^@:]+)|:(?P<version>\d+))?")


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model. `created` is ISO 8601 in UTC; `lineage`: the version's origin."""

    name: str
    version: int
    folder: Location
    aliases: tuple[str, ...]
    run: str
    metrics: dict[str, float]
    created: str
    lineage: dict[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.version}"

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "run": self.run,
            "created": self.created,
            "model_dir": str(self.folder),
            "metrics": self.metrics,
            "lineage": self.lineage,
        }


@dataclass(frozen=True)
class Reference:
    """A user's reference to a version: `text` as written, and its parts."""

    text: str
    name: str
    alias: str | None
    version: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `text`. Raises RegistryError where it has another form."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            fix = "NAME, NAME@alias, NAME:VERSION or a model folder"
            raise RegistryError.of("model", text, "not the name of a model", fix)
        number = match["version"]
        return cls(text, match["name"], match["alias"], int(number) if number else None)

    def choose(self, versions: Sequence[ModelVersion]) -> ModelVersion:
        """Pick the referenced version from all versions of the model, oldest first. Raises
        RegistryError."""
        if self.version is not None:
            found = [v for v in versions if v.version == self.version]
        elif self.alias not in (None, NEWEST):
            found = [v for v in versions if self.alias in v.aliases]
        else:
            found = list(versions[-1:])
        if found:
            return found[0]
        what = f"no version {self.version}" if self.version is not None else "no such alias"
        known = [f"{v.version}" + "".join(f"@{alias}" for alias in v.aliases) for v in versions]
        shown = ", ".join([*(["…"] if len(known) > 10 else []), *known[-10:]])
        raise RegistryError.of("model", self.text, what, f"Versions of {self.name}: {shown}")


def alias_in(reference: str) -> tuple[str, str] | None:
    """Return name and alias of a MODEL argument of the form NAME@alias; None for any other form,
    and for NAME@latest, whose meaning changes with every training."""
    if "@" not in reference or is_path(reference):
        return None
    wanted = Reference.parse(reference)
    assert wanted.alias is not None, "nothing else has an @"
    return None if wanted.alias == NEWEST else (wanted.name, wanted.alias)


def check_reference(reference: str) -> None:
    """Raise RegistryError for a MODEL argument that can never name a model."""
    if not is_path(reference):
        wanted = Reference.parse(reference)
        if wanted.alias not in (None, NEWEST):
            check_alias(wanted.alias)


def is_path(reference: str) -> bool:
    """Return whether a MODEL argument is the path or URL of a model folder."""
    return "/" in reference or reference.startswith(".") or _is_model_folder(reference)


def _is_model_folder(reference: str) -> bool:
    return (Path(reference) / MODEL_MANIFEST).is_file()


def check_alias(alias: str) -> None:
    """Raise RegistryError for an alias that is no word, or that MLflow reserves."""
    if not is_alias(alias):
        fix = f"a word such as production; {NEWEST} and v1, v2, … are reserved"
        raise RegistryError.of("alias", alias, "not a name for an alias", fix)


def metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """Turn metrics into tags of a version: without a run, MLflow has no other place for them."""
    return {_METRIC + key: repr(float(value)) for key, value in metrics.items()}


def from_mlflow(
    stored: Any, aliases: Mapping[str, Any], base: Location, scheme: str
) -> ModelVersion:
    """Make the ModelVersion of a version that MLflow stores, with its folder below `base`;
    `aliases`: all aliases of the model."""
    tags = dict(stored.tags)
    metrics = {
        key.removeprefix(_METRIC): float(tags.pop(key))
        for key in sorted(tags)
        if key.startswith(_METRIC)
    }
    number = int(stored.version)
    created = datetime.fromtimestamp(stored.creation_timestamp / 1000, UTC)
    return ModelVersion(
        name=stored.name,
        version=number,
        folder=base / stored.source.removeprefix(scheme),
        aliases=tuple(sorted(alias for alias, v in aliases.items() if int(v) == number)),
        run=tags.get("run", ""),
        metrics=metrics,
        created=created.isoformat(timespec="seconds"),
        lineage=tags,
    )
