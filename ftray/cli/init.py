"""`ftray init [TASK]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftray.cli.console import say, verb


@verb
def init(
    task: Annotated[str, typer.Argument(metavar="[TASK]")] = "text-classification",
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("ftray.yaml"),
) -> None:
    """Write a commented starter spec."""
    from ftray.errors import SpecError
    from ftray.spec.starter import starter

    text = starter(task)
    if out.exists():
        raise SpecError.of("--out", str(out), "the file exists", "name another, or remove it")
    out.write_text(text, encoding="utf-8")
    say(f"wrote {out}; next: ftray validate {out}")
