"""Shows a page in a browser, where there is one."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftray.store.files.location import Location


def local_copy(file: Location) -> Path:
    """Return the path of a file; of one that is not on a disk, that of a copy that stays."""
    if file.is_local:
        return Path(file.path)
    copy = Path(tempfile.mkdtemp(prefix="ftray-report-")) / file.name
    copy.write_bytes(file.read_bytes())
    return copy


def show_page(page: Path) -> None:
    """Open a page in the person's browser. Does nothing without a terminal or a browser with
    windows: a text browser would take the terminal."""
    if not sys.stdout.isatty():
        return
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser:
        browser.open(page.resolve().as_uri())
