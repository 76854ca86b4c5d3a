"""Writes the report of a run, report.html in its folder."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ftray import __version__
from ftray.reports.page import render
from ftray.reports.record import RunRecord
from ftray.reports.run.view import RunView
from ftray.reports.samples import Data, keep_samples
from ftray.reports.sweep.view import SweepView
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.folder import RunFolder

FILE = "report.html"
log = logging.getLogger(__name__)


def write_report(root: Root, run: RunFolder, data: Data | None = None) -> Location | None:
    """Write the report of what the run's folder holds by now, and return its file. data: what the
    run trained on, of which the folder keeps the rows that the report shows.

    A report is no part of the training: where it fails, a line of the log says why, and the result
    is None."""
    file = run.location / FILE
    try:
        if data is not None:
            keep_samples(run.location, data)
        file.write_text(report(root, run))
    except Exception as error:  # noqa: BLE001 - whatever a page lacks, the run has its model
        log.warning("no report of run %s: %s: %s", run.run_id, type(error).__name__, error)
        return None
    return file


def report(root: Root, run: RunFolder) -> str:
    """Return the report as HTML."""
    record = RunRecord.read(root, run)
    view = SweepView(record) if record.status.kind == "tune" else RunView(record)
    template = "sweep.html" if isinstance(view, SweepView) else "run.html"
    return render(template, view=view, version=__version__, written=_now())


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
