"""Base models that are made for the data and not pretrained: new://table?layers=3&width=96.

Each machine makes the folder by itself when it needs it: the folder depends on the URL and on the
schema alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from ftray import digest
from ftray.errors import ModelError
from ftray.models.border import KEY
from ftray.spec.messages import first_fault
from ftray.tasks.schema import Schema
from ftray.tasks.tabular.new_base import Shape, write_base

_SCHEME = "new"
_VERSION = 1
"""Part of the digest: raise it when the same shape and columns make another model."""


def is_new(name: str) -> bool:
    """Return whether a model is to be made."""
    return name.startswith(f"{_SCHEME}://")


def shape_of(name: str) -> Shape:
    """Return the shape that the URL asks for. Raises ModelError."""
    url = urlsplit(name)
    known = ", ".join(Shape.model_fields)
    fix = f"write new://table, or new://table?layers=3&width=96; there are {known}"
    if url.netloc != "table" or url.path:
        raise ModelError.of(KEY, name, "a new model can be made for the rows of a table", fix)
    try:
        return Shape.model_validate(dict(parse_qsl(url.query, keep_blank_values=True)))
    except ValidationError as error:
        raise ModelError.of(KEY, name, first_fault(error), fix) from None


def made_for(name: str, schema: Schema) -> Path:
    """Return the folder of a new model for the columns of a table. Raises ModelError where there
    is none that it could read."""
    shape, read = shape_of(name), [column for column in schema.columns if column.tokens]
    if not read:
        what = "its columns are texts" if schema.columns else "the task reads no table"
        raise ModelError.of(KEY, name, f"is for tables, and {what}", "name a pretrained model")
    told = [shape.model_dump(), *(of.model_dump(mode="json") for of in schema.columns), _VERSION]
    target = models_cache() / digest.of_json(told)
    return filled(target, lambda part: write_base(shape, schema.columns, part))


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
