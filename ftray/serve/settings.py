"""The arguments of the builder: the models, and the keys of the spec's `serve` section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ftray.errors import ServeError
from ftray.models.artifact.named import NamedModel, find_named
from ftray.serve.models.alias import Alias
from ftray.spec.fields import Text, contradiction
from ftray.spec.messages import problems
from ftray.spec.sections.serving import ServeSpec
from ftray.store.deployments.promotion import find_route
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import alias_in
from ftray.store.root import open_root


def _several(references: Any) -> Any:
    return (references,) if isinstance(references, str) else references


class Service(ServeSpec):
    """The section `serve` with the settings of a service. Only the person who runs the service sets
    these; a model's own spec cannot."""

    auth: bool = True
    """False: requests need no API key, whatever `api_keys` says."""
    loopback: bool = False
    """Whether the service listens on an address that only its own machine can reach."""
    trust_remote_code: bool = False
    """Whether the service runs code that comes with a model."""


class Settings(Service):
    """Arguments of `ftray.serve.app:build`. A key that is left out is as in the model's spec."""

    model: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_several)]
    """One reference, or a list of references."""
    storage: Text | None = None
    wait_for_model: bool = False
    """Whether the application waits for a model, version or alias that is not registered yet. An
    application that does not wait, and so cannot be built, stays failed after the model is
    registered."""

    @model_validator(mode="after")
    def _somebody_says_who_may_ask(self) -> Self:
        if not self.auth and self.api_keys is not None:
            problem = f"keys are asked for by api_keys {self.api_keys}, and auth is false"
            raise contradiction(problem, "Leave one of them out.")
        return self


@dataclass(frozen=True)
class ServedModel(NamedModel):
    """A model to serve: the version with which every replica begins, and the alias that the
    replicas follow from there. Without an alias, the replicas keep the version."""

    alias: Alias | None = None

    @property
    def address(self) -> str:
        """Name that no other model of the same service has: NAME@ALIAS, or the reference."""
        return self.reference if self.alias is None else f"{self.name}@{self.alias.alias}"


def parse(args: Mapping[str, Any]) -> Settings:
    """Parse the builder's arguments. Raises ServeError with one problem per key that is unknown or
    wrong."""
    try:
        return Settings.model_validate(args)
    except ValidationError as error:
        raise ServeError(*problems(error, args, Settings, root="arguments")) from None


def require_auth(settings: Settings) -> None:
    """Raises ServeError where the operator gives neither API keys nor `auth` false. The keys in a
    model's own spec are not enough: the model's folder may be a stranger's."""
    if settings.auth and settings.api_keys is None:
        problem = "nobody says who may ask, and others than this machine can"
        fix = (
            "name a file of keys (`ftray keys add NAME`), or let everybody ask with auth false "
            "(--no-auth)"
        )
        raise ServeError.of("serve.api_keys", None, problem, fix)


def find(settings: Settings) -> tuple[tuple[ServedModel, ...], Service]:
    """Find the models, and how to serve them: the given keys, and for all other keys the `serve`
    section in the first model's own spec.

    Raises RegistryError or ModelError when there is no such model, ServeError when the given keys
    and the section contradict each other, or two references mean the same model.
    """
    storage, trusts = settings.storage, settings.trust_remote_code
    served = tuple(find_one(reference, storage, trusts) for reference in settings.model)
    for place, model in enumerate(served):
        if model.address in {other.address for other in served[:place]}:
            raise ServeError.of("model", model.address, "named twice", "name it once")
    spec = _service(settings, served[0].info.spec.get("serve", {}))
    for model in served:
        if spec.backend != "torch" and model.info.kind.writes:
            problem = f"computes labels, and {model.reference} writes texts"
            raise ServeError.of("backend", spec.backend, problem, "set it to torch")
    return served, spec


def _service(settings: Settings, section: Mapping[str, Any]) -> Service:
    """Merge `section`, the `serve` section of a model's spec, with `settings`, which win."""
    known = {key: value for key, value in section.items() if key in ServeSpec.model_fields}
    if not settings.auth:
        known.pop("api_keys", None)
    given = settings.model_dump(exclude_unset=True)
    whole = parse(_laid_over(given, known))
    return Service(**whole.model_dump(include=set(Service.model_fields)))


def _laid_over(given: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """Return `section` with the values of `given` in place of its own, also in nested sections."""
    inner = {
        key: _laid_over(value, section[key])
        for key, value in given.items()
        if isinstance(value, Mapping) and isinstance(section.get(key), Mapping)
    }
    return {**section, **given, **inner}


def find_one(reference: str, storage: str | None, trust_remote_code: bool = False) -> ServedModel:
    """Find one model by its reference. Raises RegistryError or ModelError when there is no such
    model."""
    found = find_named(reference, storage, trust_remote_code)
    return ServedModel(**vars(found), alias=_alias(reference, storage))


def _alias(reference: str, storage: str | None) -> Alias | None:
    """Return the alias of a reference NAME@alias; None for NAME@latest and other references."""
    root = open_root(storage)
    if (alias := alias_in(reference)) is None:
        return None
    # Replicas follow the alias's route: other tools than ftray may have changed the registry.
    route = find_route(Registry(root), *alias)
    assert route is not None, "the alias was resolved"
    name, word = alias
    return Alias(root.location.url, name, word, route.current)
