"""The parts of the spec's sections: types with bounds, and the errors of values out of bounds."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError


def contradiction(
    problem: str, fix: str, key: str = "", value: object = None
) -> PydanticCustomError:
    """Make the error that a validator raises. The message to the user carries `fix` and, where the
    fault lies outside the validated section, `key`."""
    context = {"problem": problem, "fix": fix, "key": key, "value": value}
    return PydanticCustomError("contradiction", "{problem}", context)


def _not_a_bool(value: Any) -> Any:
    # Without this check `true` would count as the number 1.
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


_LARGEST = 10**12
"""Above every sensible count; larger numbers overflow in other libraries."""

# Bounds stand before the validator: after it, pydantic would leave them out of the JSON Schema.
_NUMBER = BeforeValidator(_not_a_bool)
Int = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST), _NUMBER]
PositiveInt = Annotated[int, Field(gt=0, le=_LARGEST), _NUMBER]
CountFromZero = Annotated[int, Field(ge=0, le=_LARGEST), _NUMBER]
Seed = Annotated[int, Field(ge=0, lt=2**32), _NUMBER]
Float = Annotated[float, Field(allow_inf_nan=False), _NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]
FloatFromZero = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER]
Share = Annotated[float, Field(gt=0, lt=1), _NUMBER]
ShareFromZero = Annotated[float, Field(ge=0, lt=1), _NUMBER]
Fraction = Annotated[float, Field(gt=0, le=1), _NUMBER]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Auto = Literal["auto"]


def number_in_text(value: Any) -> Any:
    """Turn a quoted number into a number: beside a `Text` it would count as the name of a file."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def whole_in_text(value: Any) -> Any:
    """Turn a quoted whole number into a number."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


_SWITCHES = {"true": "on", "yes": "on", "false": "off", "no": "off"}


def _switch(value: Any) -> Any:
    # Some users write `on` and `off` as true and false, or as yes and no.
    if not isinstance(value, (bool, str)):
        return value
    return _SWITCHES.get(str(value).lower(), value)


def off_in_yaml(value: Any) -> Any:
    """Restore `off` where YAML read it as false."""
    return "off" if value is False else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"a regular expression, and it is none: {error}") from None
    except (OverflowError, RecursionError):
        raise ValueError("a shorter regular expression") from None
    return pattern


Pattern = Annotated[Text, AfterValidator(_compiles)]
"""A regular expression that ftray searches for in the names of parameters."""


_NAME = r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?"
_NAME_LENGTH = 47


def _is_a_name(name: str) -> str:
    if re.fullmatch(_NAME, name):
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    close = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_NAME_LENGTH].strip("-")
    raise contradiction(
        f"must be lower-case letters, digits and dashes within, at most {_NAME_LENGTH}",
        f"Did you mean {close}?" if close else "For example my-classifier.",
        value=name,
    )


Name = Annotated[
    str, AfterValidator(_is_a_name), Field(json_schema_extra={"pattern": f"^{_NAME}$"})
]
"""A name of runs and models that Kubernetes, URLs and MLflow accept unchanged."""


_ALIAS = re.compile(r"(?!(v\d+|latest)$)[a-z][\w-]*", re.IGNORECASE)


def is_alias(word: str) -> bool:
    """Return whether a version may have this alias: MLflow reserves latest, v1, v2 and so on."""
    return _ALIAS.fullmatch(word) is not None


def _is_an_alias(word: str) -> str:
    if is_alias(word):
        return word
    fix = "Write a word such as production; latest and v1, v2, … are reserved."
    raise contradiction("not a name for an alias", fix, value=word)


Alias = Annotated[Text, AfterValidator(_is_an_alias)]
"""An alias of a model version that the registry accepts."""


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Range(Section):
    """A range of whole numbers from `min` to `max`, both included."""

    min: PositiveInt = 1
    max: PositiveInt = 1

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.min > self.max:
            raise contradiction(
                f"min {self.min} is above max {self.max}", "Raise max or lower min."
            )
        return self
