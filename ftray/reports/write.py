"""Writes the report of a run, report.html in its folder, and pages that compare runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from ftray import __version__
from ftray.reports.compare.view import CompareView
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

    def page() -> str:
        if data is not None:
            keep_samples(run.location, data)
        return report(root, run)

    return _written(run.location / FILE, page)


def write_comparison(runs: Sequence[RunRecord], folder: Location) -> Location | None:
    """Write a page that compares runs into the folder of the last one, and return its file; None
    where it fails, as in `write_report`."""
    file = folder / f"compare-{'-'.join(run.run_id for run in runs[:-1])}.html"
    return _written(file, partial(comparison, runs))


def _written(file: Location, page: Callable[[], str]) -> Location | None:
    try:
        file.write_text(page())
    except Exception as error:  # noqa: BLE001 - whatever a page lacks, the run has its model
        log.warning("%s is not written: %s: %s", file, type(error).__name__, error)
        return None
    return file


def comparison(runs: Sequence[RunRecord]) -> str:
    """Return the page that compares runs, as HTML."""
    view = CompareView(runs)
    return render("compare.html", view=view, version=__version__, written=_now())


def report(root: Root, run: RunFolder) -> str:
    """Return the report as HTML."""
    record = RunRecord.read(root, run)
    view = SweepView(record) if record.status.kind == "tune" else RunView(record)
    template = "sweep.html" if isinstance(view, SweepView) else "run.html"
    return render(template, view=view, version=__version__, written=_now())


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
