"""The training worker, one data-parallel rank: builds the run from its spec and starts the loop."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from ftray.data.batches import BatchPlan, balancing_weights
from ftray.data.encoding.encoded import EncodedDataset, EncodedSplit
from ftray.errors import Interrupted
from ftray.models.structure.cut import cut_off
from ftray.models.structure.placing import placed
from ftray.models.transformers_output import quiet_transformers
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.tasks import Task, get_task
from ftray.tasks.classification import LABEL
from ftray.train import checkpoints, loop
from ftray.train.base import Base, load_base
from ftray.train.checkpoints import CheckpointManager
from ftray.train.distributed.context import DistContext, alone, join_group
from ftray.train.distributed.events import stage
from ftray.train.distributed.outcomes import told_to_all_ranks
from ftray.train.distributed.preemption import Notices, no_notice, own_notice
from ftray.train.distributed.process import settle
from ftray.train.distributed.watchdog import Watchdog
from ftray.train.engine import lora, state
from ftray.train.engine.activation_checkpointing import enable_checkpointing
from ftray.train.engine.phased import PhasedEngine
from ftray.train.evaluation.baselines import Encoder, fit_baselines
from ftray.train.export import export
from ftray.train.memory.batch_size_finder import choose_micro_batch_size
from ftray.train.orders import WorkerArgs
from ftray.train.plan import Trainee, plan_training
from ftray.train.progress import Progress
from ftray.train.trunk_cache.cache import SAMPLE, Trunk, TrunkCache, best_cache

if TYPE_CHECKING:
    from ray.train import PreemptionInfo


def train_worker(config: dict[Any, Any]) -> Any:
    """Ray Train calls this function in each worker; `config` is {"job": WorkerArgs}.

    Returns the seconds that the export took. Raises one FtrayError that names the ranks that failed
    and their nodes. Interrupted is returned instead of raised, so that each rank ends on its own
    after it has finished writing.
    """
    from ray import train as ray_train

    return _run(config["job"], ray_train.report, own_notice)


def train_alone(job: WorkerArgs) -> Interrupted | float:
    """Train `job` as the only rank, in a process that Ray Train did not start; returns as
    `train_worker` does."""
    alone()
    return _run(job, lambda metrics: None, no_notice)


def _run(
    job: WorkerArgs,
    report: Callable[[dict[str, Any]], None],
    notice: Callable[[], PreemptionInfo | None],
) -> Interrupted | float:
    """Join the process group, train, and export where `job` asks for it.

    report: called after each epoch on every rank; notice: returns the pending preemption notice.
    """
    with told_to_all_ranks():
        settle(job.spec)
        ranks = join_group()
        observer = _Reporter(job, ranks, report)
        try:
            if job.export is None or not _is_trained(job, ranks, observer):
                _train(job, ranks, observer, Notices(observer.warn, notice))
            started = time.perf_counter()
            if job.export is not None:
                with quiet_transformers():
                    export(job.export, ranks, partial(_tell_export, job, ranks, observer))
        except Interrupted as error:
            return error
        finally:
            observer.close()
    return time.perf_counter() - started


def _is_trained(job: WorkerArgs, ranks: DistContext, observer: _Reporter) -> bool:
    """Return whether an earlier attempt of this run finished the training."""
    with latest(job.checkpoints, ranks, observer.warn) as folder:
        if folder is None:
            return False
        return checkpoints.read_progress(folder).is_over(job.spec.train, job.until)


def _tell_export(job: WorkerArgs, ranks: DistContext, observer: _Reporter, name: str) -> None:
    """Tell the driver the stage of the export that begins now. Raises RunTaken, and Interrupted if
    any rank was asked to stop. Every rank must call this function."""
    observer.stage(name)
    if job.fence is not None and ranks.rank == 0:
        job.fence.check()
    if any(ranks.gather(observer.stopping())):
        fix = "the same command exports the trained model"
        raise Interrupted.of("run", job.spec.name, "interrupted before its model was written", fix)


def _train(job: WorkerArgs, ranks: DistContext, observer: _Reporter, notices: Notices) -> None:
    """Set up and train. Every rank must call this function; a single rank may fail."""
    # Only rank 0 writes checkpoints, but every rank checks its access to the storage: after a
    # restart rank 0 may be on another node.
    Root(job.checkpoints).probe()
    observer.stage("loading the base model")
    base = load_base(job.spec, job.data.schema)
    if base.note:
        observer.warn(base.note)
    _tell_baselines(job, base, ranks, observer)
    observer.stage("setting up the training")
    with latest(job.checkpoints, ranks, observer.warn) as folder:
        setup, progress = build(job.spec, job.data, base, ranks, folder, job.trunks)
    observer.setup = setup
    if job.baselines is not None and not setup.task.info.linear_probe and not progress.step:
        _tell_untrained(setup, observer)
    writes, watchdog = ranks.rank == 0, observer.watchdog
    saves = job.spec.train.checkpoint
    keeper = CheckpointManager(
        saves, job.checkpoints, writes, watchdog.saving, job.fence, notices.due
    )
    with watchdog, keeper.finishing():
        loop.run(setup, progress, keeper, observer, job.until)
    observer.setup = None  # the export loads the model again: free what the training took
    setup.phased.close()


def _tell_baselines(job: WorkerArgs, base: Base, ranks: DistContext, observer: _Reporter) -> None:
    """Fit the baselines and report their metrics, unless an earlier attempt of this run already
    wrote them. Every rank must call this function."""
    file = job.baselines if job.spec.info.linear_probe else None
    if file is None or ranks.gather(ranks.rank == 0 and file.is_file())[0]:
        return
    observer.stage("baselines: what can be had without training")
    encoder = Encoder(base.model, get_task(job.spec.task), base.setup, ranks)
    fitted = fit_baselines(encoder, job.data, job.spec.seed)
    if fitted is not None:
        baselines, event = fitted
        baselines.write(file)
        observer.baseline(event)


def _tell_untrained(setup: loop.TrainContext, observer: _Reporter) -> None:
    """Evaluate the base model before the first step and report its metrics. Every rank must call
    this function."""
    observer.stage("evaluating the base model")
    started = time.perf_counter()
    metrics = loop.evaluate(setup, setup.validation, observer)
    seconds, rows = time.perf_counter() - started, len(setup.validation)
    observer.baseline({"kind": "baseline", "base": metrics, "rows": rows, "seconds": seconds})


@contextmanager
def latest(
    folder: Location, ranks: DistContext, warn: Callable[[str], None]
) -> Iterator[Path | None]:
    """Yield a local folder with the newest undamaged checkpoint, which rank 0 chooses for all
    ranks; None where there is none."""
    found = checkpoints.latest(folder, warn) if ranks.rank == 0 else None
    name = ranks.gather(found and found.folder.name)[0]
    if name is None:
        yield None
        return
    with (folder / name).as_local() as local:
        yield local


def build(
    spec: Spec,
    data: EncodedDataset,
    base: Base,
    ranks: DistContext,
    resume: Path | None,
    trunks: Sequence[TrunkCache] = (),
) -> tuple[loop.TrainContext, Progress]:
    """Build the run of `spec`, with the state of the checkpoint folder `resume` loaded if given.

    Training modifies `base.model` in place.
    """
    task = get_task(spec.task)
    train = data.load("train")
    progress = checkpoints.read_progress(resume) if resume else Progress()
    augment = task.augmentation(base.setup, spec.train.token_dropout)
    trainee = _trainee(spec, base, task, train, ranks, trunks)
    progress.micro_batch_size = choose_micro_batch_size(
        spec, trainee, ranks, int(train.lengths.max()), progress.micro_batch_size
    )
    weights = None
    if spec.train.balance:
        weights = balancing_weights(train.column(LABEL))
    batches = BatchPlan(
        train.lengths,
        spec.train.batch_size,
        progress.micro_batch_size,
        spec.seed,
        chances=weights if spec.train.balance == "sampling" else None,
    )
    phased = PhasedEngine(trainee, spec.train, batches, ranks)
    phased.enter(progress.epoch_at_hand(spec.train), state.read(resume) if resume else None)
    setup = loop.TrainContext(
        spec=spec,
        task=task,
        phased=phased,
        train=train,
        validation=data.load("validation"),
        task_setup=base.setup,
        batches=batches,
        terms=task.terms(train.column, train.lengths),
        augment=augment,
        row_weights=weights if spec.train.balance == "weights" else None,
        trunk=trainee.trunk,
    )
    return setup, progress


def _trainee(
    spec: Spec,
    base: Base,
    task: Task,
    train: EncodedSplit,
    ranks: DistContext,
    trunks: Sequence[TrunkCache],
) -> Trainee:
    """Prepare the base model for training: inject LoRA adapters, plan which parameters train, and
    cut the model at the highest cached block boundary below which all blocks stay frozen."""
    model = base.model
    if spec.train.lora:
        lora.inject(model, spec)
    first = task.collate(base.setup, train.examples([0])).inputs
    plan = plan_training(model, spec.train, first, ranks)
    if spec.train.gradient_checkpointing:
        enable_checkpointing(model)
    fitting = [trunk for trunk in trunks if trunk.autocast == plan.autocast]
    cache = best_cache(fitting, plan.frozen)
    if cache is None:
        return Trainee(model, plan, task, base.setup)
    trunk = Trunk(cache, task.features(base.setup))
    sample = train.examples(range(min(len(train), SAMPLE)))
    with placed(model, ranks.device):
        trunk.check(spec, model, task, base.setup, sample)
    return Trainee(model, plan, task, base.setup, trunk, cut_off(model, cache.cut))


class _Reporter:
    """The loop's Observer: sends events to the driver from rank 0, reports each epoch to Ray Train
    on every rank, and feeds the watchdog."""

    def __init__(
        self, job: WorkerArgs, ranks: DistContext, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.ranks = ranks
        self._report = report
        self.setup: loop.TrainContext | None = None
        self._sender = job.sender if ranks.rank == 0 else None
        self._started = False
        self._alarms = job.sender
        self.watchdog = Watchdog(60 * job.spec.scale.hang_minutes, self._alarm)

    def _alarm(self, kind: str, stack: str) -> None:
        """Send an alarm to the driver from any rank: rank 0, which sends all other events, may be
        the rank that hangs."""
        if self._alarms is not None:
            where = f"{socket.gethostname()}, pid {os.getpid()}"
            event = {"kind": kind, "rank": self.ranks.rank, "where": where, "stack": stack}
            self._alarms.alarm(event)

    def alive(self) -> None:
        self.watchdog.alive()

    def warn(self, line: str) -> None:
        self._send({"kind": "warning", "message": line}, now=True)

    def stage(self, name: str) -> None:
        """Tell the driver the stage of work that begins now."""
        self._send(stage(name), now=True)

    def baseline(self, event: dict[str, Any]) -> None:
        self._send(event, now=True)

    def phase(self, progress: Progress) -> None:
        assert self.setup is not None, "the loop runs what was set up"
        phased = self.setup.phased
        event = {
            "kind": "phase" if self._started else "start",
            "epoch": progress.epoch,
            "step": progress.step,
            "trainable_parameters": phased.plan.trainable_parameters,
            "total_parameters": phased.plan.total_parameters,
        }
        if not self._started:
            nodes = self.ranks.gather(ray.get_runtime_context().get_node_id())
            event |= {
                "steps": self.setup.steps,
                "workers": self.ranks.world,
                "nodes": len(set(nodes)),
                "blocks": phased.plan.blocks,
                "trunk": self.setup.trunk.cache.cut.blocks if self.setup.trunk else 0,
                "precision": "bf16" if phased.engine.module.autocast else "fp32",
            }
        self._started = True
        self._send(event, now=True)

    def step(self, event: dict[str, Any]) -> None:
        self._send({"kind": "step", **event})

    def epoch(self, metrics: dict[str, Any]) -> None:
        self._report(metrics)
        self._send({"kind": "epoch", **metrics}, now=True)

    def stopping(self) -> bool:
        return self._sender is not None and self._sender.stopping()

    def close(self) -> None:
        """Flush: wait until the driver's mailbox has received all events."""
        if self._sender is not None:
            self._sender.flush()

    def _send(self, event: dict[str, Any], now: bool = False) -> None:
        if self._sender is not None:
            self._sender.send(event, now)
