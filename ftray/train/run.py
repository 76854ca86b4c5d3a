"""A training run from the driver's side: prepare, train on the cluster, export, register."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftray import digest, interrupt
from ftray.cluster.connection import is_this_machine
from ftray.data.encoding.encode import EncodedDataset, encode_dataset
from ftray.data.encoding.encoded import QUARANTINE
from ftray.errors import without_passwords
from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.models.pretrained import find_pretrained
from ftray.models.transformers_output import quiet_transformers
from ftray.reports.samples import Data
from ftray.reports.test_rows import FILE as TEST_ROWS
from ftray.reports.write import FILE as REPORT
from ftray.reports.write import write_report
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.registry.registry import ModelVersion
from ftray.store.removal import clear
from ftray.store.root import MODEL_MANIFEST
from ftray.store.runs.folder import CHECKPOINTS, RunFolder
from ftray.store.runs.metrics import ENCODING
from ftray.train.check import ValidatedSpec
from ftray.train.distributed.events import Event, Listener, Sender, listening, stage
from ftray.train.distributed.watchdog import Alarms
from ftray.train.evaluation.older_versions import better_version
from ftray.train.inputs import claimed, pinned, with_own_deepspeed
from ftray.train.orders import BASELINES, Export, TrunkOrder, WorkerArgs
from ftray.train.promoting import promote_unless_worse
from ftray.train.ray.local_worker import LocalWorker, local_worker
from ftray.train.record.lines import Lines
from ftray.train.record.record import Record, recorded
from ftray.train.resources import check_scale, worker_resources

if TYPE_CHECKING:
    from ftray.train.trunk_cache.cache import TrunkCache

_SAVING_S = 50.0


@dataclass(frozen=True)
class Trained:
    """A finished run and the model version that it made."""

    run: RunFolder
    version: ModelVersion
    info: ModelInfo
    seconds: dict[str, float]
    promoted: str | None = None
    """The alias of `train.promote` if the version received it, else None."""

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.info.run,
            "run_dir": self.run.location.url,
            "model": self.version.name,
            "version": self.version.version,
            "model_dir": self.version.folder.url,
            "report": self.report,
            "metrics": self._metrics(),
            "promoted": self.promoted,
            "seconds": self.seconds,
        }

    @property
    def report(self) -> str | None:
        """The URL of the run's report; None where it could not be written."""
        file = self.run.location / REPORT
        return file.url if file.is_file() else None

    def _metrics(self) -> dict[str, Any]:
        """Return the metrics of each split, and under "baselines" those of the baselines."""
        worth = self.info.baselines
        told = {} if worth is None else {"baselines": worth.model_dump(mode="json")}
        return {**self.info.metrics, **told}


@dataclass(frozen=True)
class PreparedRun:
    """A checked spec with its encoded data."""

    checked: ValidatedSpec
    data: EncodedDataset
    seconds: float
    worker: LocalWorker | None = None
    """The process that trains and exports; None where Ray Train starts the workers."""

    def for_trunk(self, variants: Sequence[Spec] = (), epochs: int | None = None) -> TrunkOrder:
        """Return the order for a trunk cache that serves all of `variants`.

        `variants` differ in train.unfreeze (default: the spec itself); `epochs` is the number that
        the runs train together (default: train.epochs).
        """
        spec = self.checked.spec
        each = worker_resources(spec)
        return TrunkOrder(
            spec,
            tuple(variants) or (spec,),
            spec.train.reads(self.data.rows["train"], epochs),
            self.data,
            self.checked.root,
            each,
        )

    @property
    def for_report(self) -> Data:
        """The data whose rows the report of the run shows."""
        return Data(self.checked.dataset, self.data, self.checked.spec.info.files)

    def with_spec(self, spec: Spec) -> PreparedRun:
        """Return a copy with the same data for `spec`, which may differ in training settings
        only."""
        return replace(self, checked=replace(self.checked, spec=spec))


def prepare(checked: ValidatedSpec, worker: LocalWorker | None = None) -> PreparedRun:
    """Encode the data, or take the encoding from the cache; `worker` encodes where one is given.
    Raises FtrayError."""
    started = time.perf_counter()
    pretrained = find_pretrained(checked.spec.model, checked.dataset.schema)
    data = encode_dataset(
        checked.dataset,
        str(pretrained.folder),
        pretrained.processor_digest(),
        checked.spec,
        checked.root,
        *([worker.map] if worker else []),
    )
    return PreparedRun(checked, data, time.perf_counter() - started, worker)


def train(
    checked: ValidatedSpec,
    say: Callable[[str], None] = lambda line: None,
    listener: Listener = lambda event: None,
    worker: LocalWorker | None = None,
) -> Trained:
    """Start a run of the spec, or resume the unfinished run of the identical spec. Needs Ray.

    `say` receives lines for the user, `listener` the events of the run. `worker` is a LocalWorker
    that the caller started ahead for this spec. Raises FtrayError.
    """
    with local_worker(checked.spec, worker) as own:
        return _train(checked, say, listener, own)


def _train(
    checked: ValidatedSpec,
    say: Callable[[str], None],
    listener: Listener,
    worker: LocalWorker | None,
) -> Trained:
    started, began, say = time.perf_counter(), time.time(), Lines(say)
    check_scale(checked.spec)
    for line in checked.dataset.report.lines():
        say(line)
    listener(stage(ENCODING))
    registry_is_open = checked.registry.open_ahead()
    asked, checked = checked, pinned(checked, "train")
    prepared = prepare(checked, worker)
    for line in prepared.data.lines():
        say(line)
    run = claimed(asked, checked, "train", say)
    with recorded(checked.root, checked.spec, run, say) as record:
        record({**stage(ENCODING), "at": began})
        record.trained(checked.spec)
        record.attach(prepared.data.location / QUARANTINE)
        exporting = 0.0
        if not _is_exported(prepared, run):
            trunks = None if worker else _filled(prepared, say, both(record, listener))
            registry_is_open()
            exporting = fit_run(prepared, run, trunks, both(record, listener))
        trained = register_run(prepared, run, started, exporting, record, listener)
        report(prepared, run, record)
        tell_of_better(checked, trained, say)
    return promoted(checked, trained, say)


def both(first: Listener, second: Listener) -> Listener:
    """Return a listener that passes each event to both listeners."""

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell


def fit_run(
    prepared: PreparedRun,
    run: RunFolder,
    trunks: tuple[TrunkCache, ...] | None,
    listener: Listener,
    trials: tuple[dict[str, Any], ...] = (),
) -> float:
    """Train on the cluster and export the best checkpoint, resuming where an earlier, killed driver
    of this run stopped. Returns the seconds that the export took.

    trunks: the trunk caches; None where prepared.worker is to fill them; trials: the table of the
    sweep that chose the spec.
    """
    before = sum(record["seconds"] for record in run.metrics() if record.get("kind") == "step")
    folder, file = run.location / CHECKPOINTS, run.location / BASELINES
    spec, data = prepared.checked.spec, prepared.data
    export = replace(
        _export_order(prepared, run, folder, trials), baselines=file, since=time.time() - before
    )
    with _workers_of(prepared, run, listener) as (sender, check):
        own, baselines = with_own_deepspeed(spec, run), file if spec.train.baselines else None
        caches = trunks or ()
        job = WorkerArgs(own, data, folder, sender, baselines, caches, None, run.fence, export)
        if prepared.worker is None:
            return _fit_group(job, check)
        order = prepared.for_trunk() if trunks is None else None
        return prepared.worker.train(job, order, check)


def export_trial(
    prepared: PreparedRun,
    run: RunFolder,
    folder: Location,
    trials: tuple[dict[str, Any], ...],
    listener: Listener,
) -> float:
    """Export the best of a trial's checkpoints under `folder`, with the workers of the run's scale.
    Returns the seconds that the export took."""
    order, spec = _export_order(prepared, run, folder, trials), prepared.checked.spec
    one = spec.scale.fewest_workers == spec.scale.most_workers == 1
    if one and is_this_machine() and not worker_resources(spec).gpus:
        return _export_here(order, listener)
    with _workers_of(prepared, run, listener) as (sender, check):
        job = WorkerArgs(
            spec, prepared.data, folder, sender, until=0, fence=run.fence, export=order
        )
        return _fit_group(job, check)


def _export_order(
    prepared: PreparedRun, run: RunFolder, folder: Location, trials: tuple[dict[str, Any], ...]
) -> Export:
    spec = prepared.checked.spec
    target, rows = prepared.checked.root.models(spec.name) / run.run_id, run.location / TEST_ROWS
    groups = prepared.checked.groups
    return Export(spec, prepared.data, folder, target, run.run_id, trials, rows=rows, groups=groups)


@contextmanager
def _workers_of(
    prepared: PreparedRun, run: RunFolder, listener: Listener
) -> Iterator[tuple[Sender, Callable[[], None]]]:
    """Yield the sender of the events that the run's workers report to `listener`, and the check to
    call while they work."""
    alarms = Alarms(60 * prepared.checked.spec.scale.hang_minutes)

    def check() -> None:
        alarms.check()
        run.check_owned()

    listener(stage("starting the workers"))
    with listening(both(_heed, alarms.filter(listener))) as sender:
        yield sender, check


def _export_here(order: Export, listener: Listener) -> float:
    """Export in this process, which saves the start of another."""
    from ftray.train.export import export, solo  # imports torch

    started = time.perf_counter()
    with quiet_transformers():
        export(order, solo(), lambda name: listener(stage(name)))
    return time.perf_counter() - started


def _filled(
    prepared: PreparedRun, say: Callable[[str], None], listener: Listener
) -> tuple[TrunkCache, ...]:
    from ftray.train.trunk_cache.build import prepare_trunk  # imports torch

    return prepare_trunk(prepared.for_trunk(), say, listener)


def _heed(event: Event) -> None:
    """When a worker reports that it will save and stop, extend the deadline that SIGTERM set, so
    that the worker can write its checkpoint."""
    if event["kind"] == "stopping":
        interrupt.grant(_SAVING_S)


def _fit_group(job: WorkerArgs, check: Callable[[], None]) -> float:
    from ftray.train.ray.trainer import fit_workers  # imports torch

    return fit_workers(job, job.spec.scale.max_failures, check=check)


def register_run(
    prepared: PreparedRun,
    run: RunFolder,
    started: float,
    exporting: float,
    record: Record,
    listener: Listener = lambda event: None,
) -> Trained:
    """Register and record the exported model of the run. started: reading of the performance
    counter when the command began; exporting: seconds that the export took."""
    spec = prepared.checked.spec
    target = prepared.checked.root.models(spec.name) / run.run_id
    trained = time.perf_counter() - exporting
    run.check_owned()
    both(record, listener)(stage("registering the model"))
    info = read_info(target)
    run.set_status()
    version = register(prepared.checked, info, target, record.tracker.mlflow.run.id)
    record.made(version.reference, target, info.metrics)
    run.set_status(state="done", model=version.name, version=version.version)
    clear(run, spec.train.checkpoint.keep_after)
    spent = {
        "prepare": round(prepared.seconds, 3),
        "train": round(trained - started - prepared.seconds, 3),
        "total": round(time.perf_counter() - started, 3),
    }
    return Trained(run, version, info, spent)


def report(prepared: PreparedRun, run: RunFolder, record: Record) -> None:
    """Write the report of the run, and give it to the tracking services."""
    if file := write_report(prepared.checked.root, run, prepared.for_report):
        record.attach(file)


def tell_of_better(checked: ValidatedSpec, trained: Trained, say: Callable[[str], None]) -> None:
    """Tell the user if an older version of the model does better than the one just trained."""
    if line := better_version(checked.registry, trained.version, trained.info):
        say(line)


def promoted(checked: ValidatedSpec, trained: Trained, say: Callable[[str], None]) -> Trained:
    """Give the new version the alias of train.promote unless its metrics are worse; returns
    `trained` with `promoted` filled in. Raises RegistryError."""
    alias = checked.spec.train.promote
    if alias and promote_unless_worse(checked.registry, trained.version, trained.info, alias, say):
        return replace(trained, promoted=alias)
    return trained


def _is_exported(prepared: PreparedRun, run: RunFolder) -> bool:
    root, spec = prepared.checked.root, prepared.checked.spec
    return (root.models(spec.name) / run.run_id / MODEL_MANIFEST).is_file()


def register(
    checked: ValidatedSpec, info: ModelInfo, target: Location, tracked: str | None = None
) -> ModelVersion:
    """Register an exported model with its lineage; returns the registry's version of it. tracked:
    MLflow's id of the run."""
    spec = checked.spec
    return checked.registry.register(
        spec.name,
        target,
        info.run,
        {k: v for k, v in info.metrics["test"].items() if isinstance(v, (int, float))},
        {
            "spec_digest": digest.of_json(spec.model_dump(mode="json")),
            "data_digest": info.data_digest,
            "base_model": without_passwords(spec.model.name_or_path),
            "task": spec.task,
            "inputs": ", ".join(
                f"{n}: {m}" for n, m in spec.info.inputs(tuple(spec.columns)).items()
            ),
            "output": spec.info.output,
        },
        tracked,
    )
