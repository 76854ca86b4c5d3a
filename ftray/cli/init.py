"""`ftray init [TASK]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftray.cli.console import say, verb


@verb
def init(
    task: Annotated[str | None, typer.Argument(metavar="[TASK]")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("ftray.yaml"),
) -> None:
    """Write a commented starter spec."""
    from ftray.errors import SpecError
    from ftray.spec.starter import starter
    from ftray.tasks import DEFAULT_TASK

    text = starter(task or DEFAULT_TASK.name)
    if out.exists():
        raise SpecError.of("--out", str(out), "the file exists", "name another, or remove it")
    out.write_text(text, encoding="utf-8")
    say(f"wrote {out}; next: ftray validate {out}")
