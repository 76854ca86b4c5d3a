"""Base models that are made for the data and not pretrained: new://table?layers=3&width=96 for the
rows of a table, new://items for sequences of items.

Each machine makes the folder by itself when it needs it: the folder depends on the URL and on the
schema alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from ftray import digest
from ftray.errors import ModelError
from ftray.models.border import KEY
from ftray.spec.messages import first_fault
from ftray.tasks.new_shape import Shape
from ftray.tasks.recommendation import new_base as items
from ftray.tasks.schema import Schema
from ftray.tasks.tabular import new_base as table

_SCHEME = "new"
_VERSION = 1
"""Part of the digest: raise it when the same shape and columns make another model."""


@dataclass(frozen=True)
class _Kind:
    """A kind of new models. reads: returns what of a schema such a model is made for, empty where
    there is nothing that it could read; what: the rows that it reads."""

    shape: type[Shape]
    write: Callable[[Any, Schema, Path], object]
    reads: Callable[[Schema], list[Any]]
    what: str


_KINDS = {
    "table": _Kind(Shape, table.write_base, table.read_by, "the rows of a table"),
    "items": _Kind(items.ItemShape, items.write_base, items.read_by, "sequences of items"),
}


def is_new(name: str) -> bool:
    """Return whether a model is to be made."""
    return name.startswith(f"{_SCHEME}://")


def shape_of(name: str) -> Shape:
    """Return the shape that the URL asks for. Raises ModelError."""
    return _asked(name)[1]


def _asked(name: str) -> tuple[_Kind, Shape]:
    url = urlsplit(name)
    kind = _KINDS.get(url.netloc)
    if kind is None or url.path:
        told = " and ".join(f"{_SCHEME}://{name} for {of.what}" for name, of in _KINDS.items())
        raise ModelError.of(KEY, name, "no such kind of new models", f"there are {told}")
    known = ", ".join(kind.shape.model_fields)
    start = f"{_SCHEME}://{url.netloc}"
    fix = f"write {start}, or {start}?layers=3&width=96; there are {known}"
    try:
        return kind, kind.shape.model_validate(dict(parse_qsl(url.query, keep_blank_values=True)))
    except ValidationError as error:
        raise ModelError.of(KEY, name, first_fault(error), fix) from None


def made_for(name: str, schema: Schema) -> Path:
    """Return the folder of a new model for what `schema` has: the columns of a table, or the items
    of sequences. Raises ModelError where there is nothing that it could read."""
    kind, shape = _asked(name)
    read = kind.reads(schema)
    if not read:
        problem = f"is for {kind.what}, and the data has none that it reads"
        raise ModelError.of(KEY, name, problem, "name a pretrained model")
    told = [shape.model_dump(), *read, _VERSION]
    target = models_cache() / digest.of_json(told)
    return filled(target, lambda part: kind.write(shape, schema, part))


def models_cache() -> Path:
    """Return the folder of this machine for models that are made, or copied from elsewhere."""
    return Path.home() / ".cache" / "ftray" / "models"


def filled(target: Path, fill: Callable[[Path], object]) -> Path:
    """Return the folder `target`. Where it is not there, `fill` writes a folder beside it, which is
    then renamed."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            part = Path(temporary) / "model"
            fill(part)
            if not target.exists():
                part.rename(target)
    return target
