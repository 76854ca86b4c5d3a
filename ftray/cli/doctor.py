"""`ftray doctor`."""

from __future__ import annotations

import typer

from ftray.cli.console import AsJson, Storage, emit, verb


@verb
def doctor(storage: Storage = None, as_json: AsJson = False) -> None:
    """Check what this machine and the cluster can do, what is missing, and what that costs."""
    from ftray.cli.display.table import show
    from ftray.doctor import examine

    found = examine(storage)
    ok = all(finding.state != "broken" for finding in found)
    if as_json:
        emit({"ok": ok, "findings": [finding.to_json() for finding in found]})
    else:
        rows = [[finding.what, finding.state, finding.value, finding.cost] for finding in found]
        show(["what", "state", "found", "what it costs"], rows)
    if not ok:
        raise typer.Exit(1)
