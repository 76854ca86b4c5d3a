"""What the sections of the spec are made of: types with bounds, and how they refuse."""

from __future__ import annotations

import re
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
    """What a validator raises: `fix` and, where it is not the validated section, `key` travel on
    to the message that the user reads."""
    context = {"problem": problem, "fix": fix, "key": key, "value": value}
    return PydanticCustomError("contradiction", "{problem}", context)


def _not_a_bool(value: Any) -> Any:
    # YAML's `yes` would otherwise pass for the number 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


# Bounds stand before the validator: behind it they would not reach the JSON Schema.
_NUMBER = BeforeValidator(_not_a_bool)
Int = Annotated[int, _NUMBER]
PositiveInt = Annotated[int, Field(gt=0), _NUMBER]
CountFromZero = Annotated[int, Field(ge=0), _NUMBER]
Float = Annotated[float, Field(allow_inf_nan=False), _NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]
FloatFromZero = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER]
Share = Annotated[float, Field(gt=0, lt=1), _NUMBER]
ShareFromZero = Annotated[float, Field(ge=0, lt=1), _NUMBER]
Fraction = Annotated[float, Field(gt=0, le=1), _NUMBER]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Auto = Literal["auto"]


def _switch(value: Any) -> Any:
    # YAML reads `on` and `off` as true and false.
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


Pattern = Annotated[Text, AfterValidator(_compiles)]
"""A regular expression that is searched for in names of parameters."""


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Range(Section):
    """From `min` to `max`, both included."""

    min: PositiveInt = 1
    max: PositiveInt = 1

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.min > self.max:
            raise contradiction(
                f"min {self.min} is above max {self.max}", "Raise max or lower min."
            )
        return self
