"""Chooses the run that a command drives: an unfinished run of the same spec, or a new run.

The pointer file runs/NAME/current/DIGEST.json names the newest run of one spec and kind of run. It
is written conditionally: of two drivers that start at once, one begins a run and the other finds
that run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from ftray import digest
from ftray.errors import shorten
from ftray.spec.load import dump
from ftray.spec.schema import Spec
from ftray.spec.sections.tracking import TrackSpec
from ftray.store.files.document import open_document
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.folder import RunFolder, new_run_id
from ftray.store.runs.inputs import Inputs
from ftray.store.runs.status import STATUS, Kind, RunStatus, Seen, taken

CURRENT = "current"
_LOOK_EVERY_S = 0.5


def claim_run(
    root: Root,
    asked: Spec,
    kind: Kind,
    spec: Spec,
    inputs: Inputs,
    say: Callable[[str], None],
) -> RunFolder:
    """Return the unfinished run of the spec `asked`, now owned by this process, else a new run.

    `spec` is `asked` with its references resolved; a new run trains `spec`. A run that began with
    other inputs is not continued. Raises RunTaken when another process drives the unfinished run,
    and StorageError.
    """
    pointer = open_document(_pointer(root, asked, kind))
    while True:
        version = pointer.read()
        run = _pointed(root, asked.name, version.content)
        seen = None if run is None else run.look()
        if run is not None and seen is not None and seen.status.goes_on:
            changed = _changed(run, inputs)
            if not changed:
                if take(run, seen, say):
                    say(f"continuing run {run.run_id}, which {_ended(seen.status)}")
                    return run
                continue  # another process has written the status: read it again
            say(f"a new run, as run {run.run_id} began with other inputs: {changed}")
        new = RunFolder.create(root, spec, new_run_id(spec), kind, inputs)
        named = json.dumps({"run": new.run_id}).encode()
        if pointer.write(named, version) is not None:
            say(f"run {new.run_id} in {new.location}")
            return new
        new.location.delete()


def unfinished(root: Root, asked: Spec, kind: Kind = "train") -> RunFolder | None:
    """Return the run that the same command continues once no process drives it."""
    content = open_document(_pointer(root, asked, kind)).read().content
    run = _pointed(root, asked.name, content)
    return run if run is not None and run.status.goes_on else None


def finished(root: Root, asked: Spec, inputs: Inputs, kind: Kind = "train") -> RunFolder | None:
    """Return the run that the spec `asked` has ended with these inputs, if its model is on
    record."""
    run = _pointed(root, asked.name, open_document(_pointer(root, asked, kind)).read().content)
    if run is None or run.status.state != "done" or run.status.version is None:
        return None
    return None if _changed(run, inputs) else run


def take(run: RunFolder, seen: Seen, say: Callable[[str], None]) -> bool:
    """Take over a run that no process drives. Return False where another process has written the
    status since `seen`. Raises RunTaken when a process drives the run."""
    status = seen.status
    if status.state == "running":
        alive = status.alive()
        if alive or (alive is None and _watch(run, seen, say)):
            raise taken(run.run_id, run.status, "is being driven")
    return run.claim(seen)


def _pointer(root: Root, asked: Spec, kind: Kind) -> Location:
    told = asked.model_copy(update={"track": TrackSpec(), "notify": None})  # changes no result
    key = digest.of_json({"kind": kind, "spec": dump(told)})
    return root.runs(asked.name) / CURRENT / f"{key}.json"


def _pointed(root: Root, name: str, content: bytes | None) -> RunFolder | None:
    """Return the run that the pointer names; None without a pointer or where the run is deleted."""
    try:
        run_id = json.loads(content or b"{}")["run"]
    except (ValueError, KeyError, TypeError):
        return None
    run = RunFolder(root.runs(name) / str(run_id))
    return run if (run.location / STATUS).is_file() else None


def _changed(run: RunFolder, inputs: Inputs) -> str:
    """Say in words how `inputs` differ from the inputs of the run; empty where they are equal."""
    before = run.inputs
    return "; ".join(inputs.changes(before)) if before is not None else "they are not on record"


def _ended(status: RunStatus) -> str:
    return f"failed: {shorten(status.message)}" if status.state == "failed" else "was cut off"


def _watch(run: RunFolder, seen: Seen, say: Callable[[str], None]) -> bool:
    """Return whether the owner, a process on another machine, gives a sign of life in its lease.

    This process's own clock measures the lease: the clocks of two machines need not agree."""
    status = seen.status
    say(
        f"run {run.run_id} was driven by {status.host}, pid {status.pid}: waiting up to "
        f"{status.lease:.0f} s for a sign of life of it"
    )
    until = time.monotonic() + status.lease
    while time.monotonic() < until:
        time.sleep(min(_LOOK_EVERY_S, status.lease / 10))
        now = run.look()
        if now.version != seen.version:
            return now.status.state == "running"
    return False
