"""Dotted keys: splits them into the keys of a tree, and looks up their fields in the schema."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Kind = Literal["text", "number", "bool", "null", "list", "mapping"]
Model = type[BaseModel]


def paths(model: Model, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key below `model`, each section before its own keys."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in sections_in(field.annotation):
            yield from paths(section, f"{prefix}{name}.")


@dataclass(frozen=True)
class Step:
    """One key on the way down a dotted key. field: None for a place in a list, a free key of a
    mapping, and a key that the schema lacks; sections: the sections that may lie below the key,
    none where the schema does not say."""

    name: str
    field: FieldInfo | None
    sections: tuple[Model, ...]


def walk(model: Model, key: str) -> list[Step]:
    """Split a dotted key into steps, one below the other. The free keys of a mapping, such as those
    of tune.space, may contain dots themselves."""
    steps: list[Step] = []
    parts = key.split(".")
    sections: tuple[Model, ...] = (model,)
    while parts:
        field = _field(sections, parts[0])
        if field is None:
            is_place = bool(steps) and parts[0].isdigit()
            sections = sections if is_place else ()
            steps.append(Step(parts.pop(0), None, sections))
            continue
        sections = tuple(sections_in(field.annotation))
        steps.append(Step(parts.pop(0), field, sections))
        if parts and _is_free(field.annotation):
            ends = (n for n in range(1, len(parts)) if _field(sections, parts[n]) is not None)
            end = max(ends, default=len(parts))
            steps.append(Step(".".join(parts[:end]), None, sections))
            parts = parts[end:]
    return steps


def split(model: Model, key: str) -> list[str]:
    """Split a dotted key into the keys of a tree, one below the other."""
    return [step.name for step in walk(model, key)]


def field_at(model: Model, key: str) -> FieldInfo | None:
    """Return the field of a dotted key, or the nearest field above it; None for an unknown key."""
    fields = [step.field for step in walk(model, key) if step.field is not None]
    return fields[-1] if fields else None


def annotation_at(model: Model, key: str) -> Any:
    """Return the type of the value at a dotted key; Any where the schema does not say."""
    field = walk(model, key)[-1].field
    return field.annotation if field is not None else Any


def section_of(model: Model, key: str) -> tuple[str, Model]:
    """Return dotted key and class of the innermost known section that contains `key`."""
    found: tuple[str, Model] = "", model
    above: list[str] = []
    steps = walk(model, key)
    if "." in steps[-1].name and steps[-1].sections:
        # The step is a free key that ends with an unknown key.
        return key.rpartition(".")[0], steps[-1].sections[0]
    for step in steps[:-1]:
        above.append(step.name)
        if not step.sections:
            break
        found = ".".join(above), step.sections[0]
    return found


def sections_in(annotation: Any) -> Iterator[Model]:
    """Yield the sections that a type is or contains."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def kinds(annotation: Any) -> set[Kind]:
    """Return the kinds of YAML values that a type accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return {"text", "number", "bool", "null", "list", "mapping"}
    if origin is Literal:
        return {kind_of(value) for value in arguments}
    if origin in (Union, types.UnionType):
        return {kind for argument in arguments for kind in kinds(argument)}
    if origin is not None and hasattr(annotation, "__metadata__"):  # Annotated
        return kinds(arguments[0])
    plain = origin or annotation
    if plain is type(None):
        return {"null"}
    if not isinstance(plain, type):
        return set()
    for of, kind in _KINDS:
        if issubclass(plain, of):
            return {kind}
    return set()


def kind_of(value: Any) -> Kind:
    if value is None:
        return "null"
    return next(kind for of, kind in _KINDS if isinstance(value, of))


_KINDS: tuple[tuple[type, Kind], ...] = (
    (bool, "bool"),
    (int, "number"),
    (float, "number"),
    (str, "text"),
    (list, "list"),
    (tuple, "list"),
    (dict, "mapping"),
    (BaseModel, "mapping"),
)


def _field(sections: Sequence[Model], name: str) -> FieldInfo | None:
    return next((s.model_fields[name] for s in sections if name in s.model_fields), None)


def _is_free(annotation: Any) -> bool:
    """Return whether the type is or contains a mapping with free keys."""
    return get_origin(annotation) is dict or any(_is_free(a) for a in get_args(annotation))
