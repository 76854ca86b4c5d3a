"""The section `export`: what a trained model's folder says of its data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ftray.spec.fields import Section, Text, off_in_yaml


class ExportSpec(Section):
    language: Text | None = Field(
        None, description="Of the data, for the model card: a code such as en.", examples=["en"]
    )
    golden: Annotated[Literal["rows", "synthetic", "off"], BeforeValidator(off_in_yaml)] = Field(
        "rows",
        description="Texts whose answers are kept in the model folder, by which a service proves "
        "that it runs this model; rows: some of the test split, which whoever gets the folder can "
        "read; synthetic: made up from the tokenizer's vocabulary; off: none, and no such proof.",
    )
