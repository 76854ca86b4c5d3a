"""Reports in a browser: whole on a desktop and on a phone, and sortable."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftray.reports.record import RunRecord
from ftray.reports.write import comparison, report
from tests.helpers.external.browser import DESKTOP, PHONE, browsing, needs_chromium
from tests.helpers.training.recorded_runs import (
    events,
    info,
    outcomes,
    root_in,
    samples,
    spec,
    sweep,
    trained,
)

pytestmark = [pytest.mark.slow, needs_chromium]
IDS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb")
SPACE = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.unfreeze": {"choice": [0, 2, "all"]},
    "train.batch_size": {"choice": [16, 32]},
}
OUTSIDE = """[...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, pre, svg')
    && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))
    .join('\\n')"""
TRIALS = """[...document.querySelectorAll('#trials .sortable tbody tr')]
    .map((row) => row.cells[0].innerText).join()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    root, rows, of = root_in(folder / "root"), outcomes(), spec()
    tuned = spec("swept", tune={"space": SPACE, "trials": 30}, train={"epochs": 5})
    kept = {"rows": rows, "samples": samples(rows)}
    runs = [trained(root, i, of, list(events()), info=info(of, i), **kept) for i in IDS]
    swept = trained(
        root, IDS[0], tuned, list(sweep(30, 5)), "tune", info=info(tuned, IDS[0]), **kept
    )
    made = {
        "train": report(root, runs[0]),
        "sweep": report(root, swept),
        "compare": comparison([RunRecord.read(root, run) for run in runs]),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html)
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["train", "sweep", "compare"])
def test_a_page_has_its_plots_and_nothing_reaches_beyond_its_edge(
    pages: dict[str, Path], name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    with browsing(pages[name].as_uri(), size, tmp_path / "browser") as page:
        page.wait_until("document.readyState == 'complete' && document.querySelector('h1')")
        assert page.value("document.querySelectorAll('figure svg').length") >= 3
        assert not page.value("document.querySelectorAll('img').length")
        assert page.value(OUTSIDE) == ""
        assert not page.complaints


def test_trials_are_sorted_by_the_heading_that_is_pressed(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    with browsing(pages["sweep"].as_uri(), DESKTOP, tmp_path / "browser") as page:
        page.wait_until("document.querySelector('#trials .sortable button')")
        page.value("document.querySelector('#trials .sortable button').click()")
        assert page.value(TRIALS) == ",".join(str(number) for number in range(30, 0, -1))
        page.value("document.querySelector('#trials .sortable button').click()")
        assert page.value(TRIALS) == ",".join(str(number) for number in range(1, 31))
