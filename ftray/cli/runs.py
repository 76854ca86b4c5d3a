"""`ftray runs`: what was tried, how it went, what it took, and where it lies."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import AsJson, DryRun, Storage, Yes, confirm, emit, say, verb

if TYPE_CHECKING:
    from ftray.store.root import Root
    from ftray.store.runs import RunFolder

app = typer.Typer(
    help="List, show, compare and delete runs, and remove what killed ones left.",
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
# What an epoch says of itself among the others: no measurement.
_STANDING = {"best", "best_rank"}


@app.command("list")
@verb
def list_(name: Name = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """All runs, oldest first."""
    from ftray.cli.table import duration, show
    from ftray.store.root import open_root
    from ftray.store.runs import list_runs

    root = open_root(storage)
    runs = [_summary(root, run) for run in list_runs(root, name)]
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
            + [run["metric"], *(_headline(run, split) for split in ("validation", "test"))]
            + [f"{run['model']}:{run['version']}" if run["model"] else None]
            for run in runs
        ],
    )


@app.command()
@verb
def show(run: Run, storage: Storage = None, as_json: AsJson = False) -> None:
    """One run: how it stands, and its metrics after each epoch."""
    from ftray.cli.table import duration
    from ftray.cli.table import show as show_table
    from ftray.store.root import open_root
    from ftray.store.runs import find_run

    root = open_root(storage)
    found = find_run(root, run)
    summary = _summary(root, found)
    records = found.metrics()
    epochs = [record for record in records if record.get("kind") == "epoch"]
    # A sweep that was continued may tell of a trial again: the last word counts.
    last = {record.get("id"): record for record in records if record.get("kind") == "trial"}
    trials = [{key: r[key] for key in r if key != "points"} for r in last.values()]
    if summary["state"] != "running":
        # Of a sweep that was killed nobody told how its trials ended.
        trials = [
            r | {"status": _ENDED_AS.get(str(r.get("status")), r.get("status"))} for r in trials
        ]
    if as_json:
        emit(summary | {"epochs": epochs, "trials": trials, "spec": found.spec_tree()})
        return
    metrics = summary.pop("metrics")
    summary["took"] = duration(summary.pop("seconds"))
    show_table(["", ""], list(summary.items()))
    for table in (
        [_trial_row(trial) for trial in trials],
        [_numbers(epoch, but=_STANDING) for epoch in epochs],
        [{"split": split, **values} for split, values in metrics.items()],
    ):
        columns = list(dict.fromkeys(name for row in table for name in row))
        if columns:
            print()
            show_table(columns, [[row.get(name) for name in columns] for row in table])


@app.command()
@verb
def compare(runs: Runs, storage: Storage = None, as_json: AsJson = False) -> None:
    """Runs side by side: where their specs differ, and their metrics."""
    from ftray.cli.table import duration, show
    from ftray.errors import RegistryError
    from ftray.store.root import open_root
    from ftray.store.runs import find_run
    from ftray.store.tracking import flatten

    if len(runs) < 2:
        raise RegistryError.of("RUN", runs[0], "a comparison needs two", "name another run")
    root = open_root(storage)
    found = [find_run(root, reference) for reference in runs]
    summaries = [_summary(root, run) for run in found]
    differing = _differing([flatten(run.spec_tree()) for run in found])
    measured = _side_by_side([flatten(summary["metrics"]) for summary in summaries])
    if as_json:
        emit({"runs": summaries, "spec": differing, "metrics": measured})
        return
    facts = {key: [summary[key] for summary in summaries] for key in ("name", "state")}
    facts["took"] = [duration(summary["seconds"]) for summary in summaries]
    show(
        ["", *(run.run_id for run in found)],
        [[key, *values] for table in (facts, differing, measured) for key, values in table.items()],
    )


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
    from ftray.store.runs import find_run

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
    from ftray.cli.table import size
    from ftray.store import removal
    from ftray.store.prune import prune as remove
    from ftray.store.root import open_root

    root = open_root(storage)
    old = removal.older_than(root, _age(older_than)) if older_than is not None else []
    _delete(old, yes, dry_run)
    leftovers = remove(root, dry_run)
    for leftover in leftovers:
        what = "would remove" if dry_run else "removed"
        say(f"{what} {leftover.folder} ({size(leftover.size)}, {leftover.why})")
    total = sum(leftover.size for leftover in leftovers)
    if leftovers:
        say(f"{len(leftovers)} folders, {size(total)}")
    elif not old:
        say("nothing to remove")
    if as_json:
        folders = [{"folder": item.folder.url, "bytes": item.size} for item in leftovers]
        deleted = [run.location.url for run in old]
        emit({"removed": folders, "bytes": total, "deleted": deleted, "dry_run": dry_run})


def _delete(runs: list[RunFolder], yes: bool, dry_run: bool) -> None:
    """Delete these runs, after a question."""
    from ftray.cli.table import size
    from ftray.store.removal import delete_run

    for run in runs:
        status = run.status
        what = "would delete" if dry_run else "to be deleted:"
        say(
            f"{what} {run.location} ({status.kind}, {status.shown}, {size(run.location.size())}, "
            f"last heard of {status.updated[:10]})"
        )
    if dry_run or not runs:
        return
    confirm(f"Delete {len(runs)} run{'s' if len(runs) > 1 else ''} for good?", yes)
    for run in runs:
        delete_run(run, say)
        say(f"deleted run {run.run_id}")


def _age(text: str) -> timedelta:
    """Of `30d`, `12h`, `2w`. Raises RegistryError."""
    from ftray.errors import RegistryError

    units = {"h": "hours", "d": "days", "w": "weeks"}
    number, unit = text[:-1], units.get(text[-1:])
    if unit is None or not number.isdecimal() or len(number) > 5:
        fix = "a number and h, d or w, such as 30d, 12h or 2w"
        raise RegistryError.of("--older-than", text, "is no age", fix)
    return timedelta(**{unit: int(number)})


def _summary(root: Root, run: RunFolder) -> dict[str, Any]:
    """What all the verbs tell of a run."""
    status = run.status
    metric = run.spec_tree().get("train", {}).get("metric")
    started = datetime.fromisoformat(status.started)
    return {
        "run": run.run_id,
        "name": run.name,
        "kind": status.kind,
        "state": run.state,
        "message": status.message,
        "started": status.started,
        "seconds": (datetime.fromisoformat(status.updated) - started).total_seconds(),
        "host": status.host,
        "run_dir": run.location.url,
        "model": status.model or None,
        "version": status.version,
        "metric": metric,
        "metrics": _metrics(root, run, metric),
    }


def _metrics(root: Root, run: RunFolder, metric: str) -> dict[str, dict[str, float]]:
    """The numbers of the run's model, split by split; of its best epoch until it has a model."""
    from ftray.models.folder import read_info
    from ftray.store.root import MODEL_MANIFEST

    folder = root.models(run.name) / run.run_id
    if (folder / MODEL_MANIFEST).is_file():
        return {split: _numbers(values) for split, values in read_info(folder).metrics.items()}
    epochs = [e for e in run.metrics() if e.get("kind") == "epoch" and _is_number(e.get(metric))]
    if not epochs:
        return {}
    best = (min if metric == "loss" else max)(epochs, key=lambda epoch: epoch[metric])
    return {"validation": _numbers(best, but={"epoch", "step", "train_loss"} | _STANDING)}


def _trial_row(trial: dict[str, Any]) -> dict[str, Any]:
    """What matters most first: a narrow terminal has no room for all."""
    from ftray.cli.table import size

    metrics = dict(trial.get("metrics", {}))
    shown = {
        "trial": trial.get("id"),
        "status": trial.get("status"),
        "best": metrics.pop("best", None),
    }
    shown |= trial.get("config", {})
    shown["seconds"] = trial.get("seconds")
    if memory := metrics.pop("memory", None):
        shown["memory"] = size(int(memory))
    return shown | metrics


def _numbers(values: dict[str, Any], but: Iterable[str] = ()) -> dict[str, float]:
    hidden = set(but)
    return {name: v for name, v in values.items() if _is_number(v) and name not in hidden}


def _headline(run: dict[str, Any], split: str) -> float | None:
    return run["metrics"].get(split, {}).get(run["metric"])


def _differing(specs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys whose values are not the same in all specs."""
    return {
        key: values
        for key, values in _side_by_side(specs).items()
        if any(value != values[0] for value in values)
    }


def _side_by_side(trees: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Each key of any tree with its value in every one: None where it is absent."""
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return {key: [tree.get(key) for tree in trees] for key in keys}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
