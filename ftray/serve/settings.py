"""What the builder is told: which model, and the keys of the spec's `serve` section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from ftray.errors import ServeError
from ftray.models.folder import ModelInfo, read_info
from ftray.serve.alias import Alias
from ftray.spec.fields import Text
from ftray.spec.messages import problems
from ftray.spec.serving import ServeSpec
from ftray.store.location import Location
from ftray.store.promotion import find_route
from ftray.store.registry import Registry, alias_in, find_model
from ftray.store.root import open_root


def _several(references: Any) -> Any:
    return (references,) if isinstance(references, str) else references


class Settings(ServeSpec):
    """Arguments of `ftray.serve.app:build`. A key that is left out is as in the model's spec."""

    model: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_several)]
    """One reference, or a list of them."""
    storage: Text | None = None
    trust_remote_code: bool = False
    """Whether code that comes with a model runs: nothing in its folder decides that."""

    @property
    def own(self) -> set[str]:
        """Keys that are the operator's alone, and no part of a spec's section `serve`."""
        return set(Settings.model_fields) - set(ServeSpec.model_fields)


@dataclass(frozen=True)
class ServedModel:
    """The version that every replica begins with, and the alias that they follow from there;
    without one the reference was resolved once and for all."""

    folder: Location
    name: str
    version: int | None
    info: ModelInfo
    alias: Alias | None = None
    trust_remote_code: bool = False

    @property
    def reference(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"

    @property
    def address(self) -> str:
        """What tells it from others that are served beside it."""
        return self.reference if self.alias is None else f"{self.name}@{self.alias.alias}"


def parse(args: Mapping[str, Any]) -> Settings:
    """Raises ServeError with one problem per key that is unknown or wrong."""
    try:
        return Settings.model_validate(args)
    except ValidationError as error:
        raise ServeError(*problems(error, args, Settings, root="arguments")) from None


def find(settings: Settings) -> tuple[tuple[ServedModel, ...], ServeSpec]:
    """The models, and how to serve them: the `serve` section of the first one's own spec under the
    given keys.

    Raises RegistryError or ModelError when there is no such model, ServeError when the two
    sections contradict each other, or two references mean the same.
    """
    storage, trusts = settings.storage, settings.trust_remote_code
    served = tuple(find_one(reference, storage, trusts) for reference in settings.model)
    for place, model in enumerate(served):
        if model.address in {other.address for other in served[:place]}:
            raise ServeError.of("model", model.address, "named twice", "name it once")
    given = settings.model_dump(exclude_unset=True, exclude=settings.own)
    section = _laid_over(given, served[0].info.spec.get("serve", {}))
    whole = parse({**section, "model": settings.model}).model_dump(exclude=settings.own)
    spec = ServeSpec(**whole)
    for model in served:
        if spec.backend != "torch" and not model.info.labels:
            problem = f"computes labels, and {model.reference} generates"
            raise ServeError.of("backend", spec.backend, problem, "set it to torch")
    return served, spec


def _laid_over(given: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """`section` with the values of `given` in place of its own, also within its sections."""
    inner = {
        key: _laid_over(value, section[key])
        for key, value in given.items()
        if isinstance(value, Mapping) and isinstance(section.get(key), Mapping)
    }
    return {**section, **given, **inner}


def find_one(reference: str, storage: str | None, trust_remote_code: bool = False) -> ServedModel:
    """Raises RegistryError or ModelError when there is no such model."""
    found = find_model(reference, storage)
    info = read_info(found.folder)
    alias = _alias(reference, storage)
    return ServedModel(found.folder, found.name, found.version, info, alias, trust_remote_code)


def _alias(reference: str, storage: str | None) -> Alias | None:
    """What the reference says, where it is NAME@alias and not NAME@latest."""
    root = open_root(storage)
    if (alias := alias_in(reference)) is None:
        return None
    # The registry may have been changed by other tools than ftray: replicas look at the route.
    find_route(Registry.open(root), *alias)
    return Alias(root.location.url, *alias)
