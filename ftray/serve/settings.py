"""What the builder is told: which model, and the keys of the spec's `serve` section."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ftray.errors import Problem, ServeError, shorten
from ftray.models.folder import ModelInfo, read_info
from ftray.serve.alias import Alias
from ftray.spec.fields import Text
from ftray.spec.schema import ServeSpec
from ftray.store.location import Location
from ftray.store.promotion import find_route
from ftray.store.registry import Registry, alias_in, find_model
from ftray.store.root import open_root


class Settings(ServeSpec):
    """Arguments of `ftray.serve.app:build`. A key that is left out is as in the model's spec."""

    model: Text
    storage: Text | None = None


@dataclass(frozen=True)
class ServedModel:
    """The version that every replica begins with, and the alias that they follow from there;
    without one the reference was resolved once and for all."""

    folder: Location
    name: str
    version: int | None
    info: ModelInfo
    alias: Alias | None = None

    @property
    def reference(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


def parse(args: Mapping[str, Any]) -> Settings:
    """Raises ServeError with one problem per key that is unknown or wrong."""
    try:
        return Settings.model_validate(args)
    except ValidationError as error:
        raise ServeError(*map(_problem, error.errors())) from None


def find(settings: Settings) -> tuple[ServedModel, ServeSpec]:
    """The model, and how to serve it: its own spec's `serve` section under the given keys.

    Raises RegistryError or ModelError when there is no such model, ServeError when the two
    sections contradict each other.
    """
    found = find_model(settings.model, settings.storage)
    info = read_info(found.folder)
    given = settings.model_dump(exclude_unset=True, exclude={"model", "storage"})
    section = {**info.spec.get("serve", {}), **given}
    whole = parse({**section, "model": settings.model}).model_dump(exclude={"model", "storage"})
    served = ServedModel(found.folder, found.name, found.version, info, _alias(settings))
    return served, ServeSpec(**whole)


def _alias(settings: Settings) -> Alias | None:
    """What the reference says, where it is NAME@alias and not NAME@latest."""
    root = open_root(settings.storage)
    if (alias := alias_in(settings.model)) is None:
        return None
    # The registry may have been changed by other tools than ftray: replicas look at the route.
    find_route(Registry.open(root), *alias)
    return Alias(str(root), *alias)


def _problem(detail: ErrorDetails) -> Problem:
    key = ".".join(str(part) for part in detail["loc"]) or "arguments"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(key, shorten(detail["input"]), "unknown argument", _known(detail["loc"]))
    if kind == "missing":
        return Problem(key, "", "missing", f"Add {key} to the arguments.")
    if kind == "contradiction":
        return Problem(key, "", context["problem"], context["fix"])
    message = detail["msg"].removeprefix("Value error, ")
    fix = "See the serve section of `ftray schema`."
    return Problem(key, shorten(detail["input"]), message[:1].lower() + message[1:], fix)


def _known(location: tuple[int | str, ...]) -> str:
    model: Any = Settings
    for part in location[:-1]:
        model = model.model_fields[str(part)].annotation
    names = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."
