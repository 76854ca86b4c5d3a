"""`ftray runs`: lists, shows, follows, compares, deletes and prunes runs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ftray.cli.console import AsJson, DryRun, Storage, Yes, confirmed, emit, say, verb

if TYPE_CHECKING:
    from ftray.store.runs.folder import RunFolder

app = typer.Typer(
    help="List, show, watch, compare and delete runs, and remove what killed ones left.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only runs of this name.")]
_RUN_HELP = "RUN_ID, its beginning, NAME/RUN_ID, or NAME for its newest run."
Run = Annotated[str, typer.Argument(metavar="RUN", help=_RUN_HELP)]
DeletedRuns = Annotated[list[str], typer.Argument(metavar="RUN...", help=_RUN_HELP)]
Runs = Annotated[list[str], typer.Argument(metavar="RUN RUN...", help=_RUN_HELP)]
OlderThan = Annotated[
    str | None,
    typer.Option(
        metavar="AGE", help="Also whole runs that ended so long ago: 30d, 12h.", show_default=False
    ),
]


_ENDED_AS = {"running": "interrupted", "waiting": "paused"}


@app.command("list")
@verb
def list_(name: Name = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """All runs, oldest first."""
    from ftray.cli.display.run_facts import headline, summary
    from ftray.cli.display.table import duration, show
    from ftray.store.root import open_root
    from ftray.store.runs.folder import list_runs

    root = open_root(storage)
    runs = [summary(root, run) for run in list_runs(root, name)]
    if as_json:
        emit({"runs": runs})
        return
    if not runs:
        say(f"no runs {f'of {name} ' if name else ''}in {root} yet")
        return
    show(
        ["run", "name", "kind", "state", "took", "metric", "validation", "test", "model"],
        [
            [run["run"], run["name"], run["kind"], run["state"], duration(run["seconds"])]
            + [run["metric"], *(headline(run, split) for split in ("validation", "test"))]
            + [f"{run['model']}:{run['version']}" if run["model"] else None]
            for run in runs
        ],
    )


@app.command()
@verb
def show(run: Run, storage: Storage = None, as_json: AsJson = False) -> None:
    """One run: how it stands, and its metrics after each epoch."""
    from ftray.cli.display.run_facts import STANDING, numbers, summary, trial_row
    from ftray.cli.display.table import duration
    from ftray.cli.display.table import show as show_table
    from ftray.store.root import open_root
    from ftray.store.runs.folder import find_run

    root = open_root(storage)
    found = find_run(root, run)
    facts = summary(root, found)
    records = found.metrics()
    epochs = [record for record in records if record.get("kind") == "epoch"]
    # A continued sweep may report a trial again: the last record counts.
    last = {record.get("id"): record for record in records if record.get("kind") == "trial"}
    trials = [{key: r[key] for key in r if key != "points"} for r in last.values()]
    if facts["state"] != "running":
        # The driver of a killed sweep could not record how the running trials ended.
        trials = [
            r | {"status": _ENDED_AS.get(str(r.get("status")), r.get("status"))} for r in trials
        ]
    if as_json:
        emit(facts | {"epochs": epochs, "trials": trials, "spec": found.spec_tree()})
        return
    metrics = facts.pop("metrics")
    facts["took"] = duration(facts.pop("seconds"))
    show_table(["", ""], list(facts.items()))
    for table in (
        [trial_row(trial) for trial in trials],
        [numbers(epoch, but=STANDING) for epoch in epochs],
        [{"split": split, **values} for split, values in metrics.items()],
    ):
        columns = list(dict.fromkeys(name for row in table for name in row))
        if columns:
            print()
            show_table(columns, [[row.get(name) for name in columns] for row in table])


@app.command()
@verb
def watch(run: Run, storage: Storage = None, as_json: AsJson = False) -> None:
    """Follow a run from another shell or machine until it ends."""
    from ftray.cli.display.progress import RunDisplay
    from ftray.cli.display.run_facts import summary
    from ftray.store.root import open_root
    from ftray.store.runs.folder import find_run
    from ftray.store.runs.follow import follow

    root = open_root(storage)
    found = find_run(root, run)
    say(f"run {found.run_id} of {found.name}, started {found.status.started[:19]} UTC")
    with RunDisplay(found.spec_tree()["train"]["log_every"]) as display:
        for event in follow(found):
            display.listen(event)
    facts = summary(root, found)
    if as_json:
        emit(facts)
    else:
        status = found.status
        made = f": {facts['model']}:{facts['version']}" if facts["model"] else ""
        say(f"{status.shown}{made}" + (f": {status.message}" if status.message else ""))
    if facts["state"] != "done":
        raise typer.Exit(1)


@app.command()
@verb
def compare(runs: Runs, storage: Storage = None, as_json: AsJson = False) -> None:
    """Runs side by side: where what they trained differs, and their metrics."""
    from ftray.cli.display.run_facts import summary
    from ftray.cli.display.table import duration, show
    from ftray.errors import RegistryError
    from ftray.reports.compare.difference import differing, side_by_side
    from ftray.reports.record import RunRecord
    from ftray.reports.write import write_comparison
    from ftray.store.root import open_root
    from ftray.store.runs.folder import find_run

    if len(runs) < 2:
        raise RegistryError.of("RUN", runs[0], "a comparison needs two", "name another run")
    root = open_root(storage)
    found = [find_run(root, reference) for reference in runs]
    facts = [summary(root, run) for run in found]
    records = [RunRecord.read(root, run) for run in found]
    specs = differing(records)
    measured = side_by_side([each["metrics"] for each in facts])
    file = write_comparison(records, found[-1].location)
    if as_json:
        report = None if file is None else file.url
        emit({"runs": facts, "spec": specs, "metrics": measured, "report": report})
        return
    shown = {key: [each[key] for each in facts] for key in ("name", "state")}
    shown["took"] = [duration(each["seconds"]) for each in facts]
    show(
        ["", *(run.run_id for run in found)],
        [[key, *values] for table in (shown, specs, measured) for key, values in table.items()],
    )
    if file is not None:
        say(f"report  {file}")


@app.command("open")
@verb
def open_(run: Run, storage: Storage = None, as_json: AsJson = False) -> None:
    """Write the report of a run anew and show it in a browser, or print where it is."""
    from ftray.cli.display.browser import local_copy, show_page
    from ftray.errors import RegistryError
    from ftray.reports.write import FILE, write_report
    from ftray.store.root import open_root
    from ftray.store.runs.folder import find_run

    root = open_root(storage)
    found = find_run(root, run)
    file = write_report(root, found) or found.location / FILE
    if not file.is_file():
        fix = "the line above says why"
        raise RegistryError.of("run", found.run_id, "its report cannot be written", fix)
    if as_json:
        emit({"report": file.url})
        return
    page = local_copy(file)
    print(page)
    show_page(page)


@app.command()
@verb
def delete(
    runs: DeletedRuns,
    yes: Yes = False,
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs with all that they kept; the models that they made stay."""
    from ftray.store.root import open_root
    from ftray.store.runs.folder import find_run

    root = open_root(storage)
    found = {run.location.path: run for run in (find_run(root, reference) for reference in runs)}
    _delete(list(found.values()), yes, dry_run)
    if as_json:
        emit({"deleted": [run.location.url for run in found.values()], "dry_run": dry_run})


@app.command()
@verb
def prune(
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Remove what killed and ended runs left; with --older-than also whole runs."""
    from rich.filesize import decimal as file_size

    from ftray.store import removal
    from ftray.store.root import open_root
    from ftray.store.runs.prune import prune as remove

    root = open_root(storage)
    old = removal.older_than(root, _age(older_than)) if older_than is not None else []
    _delete(old, yes, dry_run)
    leftovers = remove(root, dry_run)
    for leftover in leftovers:
        what = "would remove" if dry_run else "removed"
        say(f"{what} {leftover.folder} ({file_size(leftover.size)}, {leftover.why})")
    total = sum(leftover.size for leftover in leftovers)
    if leftovers:
        say(f"{len(leftovers)} folders, {file_size(total)}")
    elif not old:
        say("nothing to remove")
    if as_json:
        folders = [{"folder": item.folder.url, "bytes": item.size} for item in leftovers]
        deleted = [run.location.url for run in old]
        emit({"removed": folders, "bytes": total, "deleted": deleted, "dry_run": dry_run})


def _delete(runs: list[RunFolder], yes: bool, dry_run: bool) -> None:
    """Delete these runs, after asking the person."""
    from ftray.store.removal import delete_run

    if confirmed("run", [_described(run) for run in runs], yes, dry_run):
        for run in runs:
            delete_run(run, say)
            say(f"deleted run {run.run_id}")


def _described(run: RunFolder) -> str:
    from rich.filesize import decimal as file_size

    status, held = run.status, file_size(run.location.size())
    heard = status.updated[:10]
    return f"{run.location} ({status.kind}, {status.shown}, {held}, last heard of {heard})"


def _age(text: str) -> timedelta:
    """Parse an age such as `30d`, `12h`, `2w`. Raises RegistryError."""
    from ftray.errors import RegistryError

    units = {"h": "hours", "d": "days", "w": "weeks"}
    number, unit = text[:-1], units.get(text[-1:])
    if unit is None or not number.isdecimal() or len(number) > 5:
        fix = "a number and h, d or w, such as 30d, 12h or 2w"
        raise RegistryError.of("--older-than", text, "is no age", fix)
    return timedelta(**{unit: int(number)})
