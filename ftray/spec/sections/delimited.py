"""The section `data.csv`: the format of CSV and TSV files where ftray should not detect it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ftray.spec.fields import Section, Text, contradiction, off_in_yaml

_NAMES = {"tab": "\t", "\\t": "\t"}


def _named(value: Any) -> Any:
    return _NAMES.get(value, value) if isinstance(value, str) else value


def _one_character(value: str) -> str:
    if len(value) != 1 or value in "\r\n":
        raise ValueError("must be one character")
    return value


_Character = Annotated[str, AfterValidator(_one_character)]


class DelimitedSpec(Section):
    separator: Annotated[Literal["auto"] | _Character, BeforeValidator(_named)] = Field(
        "auto",
        description="The character between fields, or tab; auto: the comma (.tsv: the tab), or "
        "the tab, semicolon or | where the header is whole only with it.",
    )
    quote: Annotated[Literal["auto", "off"] | _Character, BeforeValidator(off_in_yaml)] = Field(
        "auto",
        description='The character around fields; off: it is part of the text. auto: ", or off '
        "where it encloses hardly a field.",
    )
    escape: Annotated[Literal["auto", "off"] | _Character, BeforeValidator(off_in_yaml)] = Field(
        "auto",
        description="The character before a quotation mark that is part of a field; auto: the "
        "backslash where rows are whole only with it. A doubled quotation mark is one in any case.",
    )
    header: tuple[Text, ...] | None = Field(
        None,
        description="Names of the columns where the first line is a row already.",
        min_length=1,
    )

    @model_validator(mode="after")
    def _characters_differ(self) -> Self:
        given = [c for c in (self.separator, self.quote, self.escape) if len(c) == 1]
        if len(set(given)) < len(given):
            raise contradiction(
                "separator, quote and escape are not three characters",
                "Name another one for each; a doubled quote is one without an escape.",
            )
        return self
