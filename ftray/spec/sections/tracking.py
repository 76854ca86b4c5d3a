"""The sections `track` and `notify`: who else is told of a run."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from ftray.spec.fields import Section, Text, contradiction

_ADDRESS = re.compile(r"https?://\S+|\$[A-Za-z_][A-Za-z0-9_]*")


class WandbSpec(Section):
    project: Text | None = Field(None, description="Else the name of the run's model.")
    entity: Text | None = Field(None, description="A user or team; else the account's own.")


class TrackSpec(Section):
    """Tracking services beside MLflow."""

    tensorboard: bool = Field(
        False,
        description="Event files in the run's folder, of a local storage root; needs "
        "`ftray[tensorboard]`.",
    )
    wandb: WandbSpec | None = Field(
        None, description="Weights & Biases; {} for the defaults; needs `ftray[wandb]`."
    )


def _is_an_address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise contradiction(
            "is no address",
            "Write https://HOST/PATH, or $NAME for an environment variable that has it.",
        )
    return value


Notify = Annotated[Text, AfterValidator(_is_an_address)]
