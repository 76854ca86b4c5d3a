"""`ftray schema`."""

from __future__ import annotations

import json

from ftray.cli.console import verb


@verb
def schema() -> None:
    """Print the JSON Schema of the spec."""
    from ftray.spec.schema import Spec

    print(json.dumps(Spec.model_json_schema(), indent=2))
