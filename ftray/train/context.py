"""Sets up a run for the training loop: model, plan, engine and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftray.data.batches import BatchPlan, balancing_weights
from ftray.data.encoding.encoded import EncodedDataset, EncodedSplit
from ftray.errors import SpecError
from ftray.models.inference import measure
from ftray.models.inference.reference import computed
from ftray.models.structure.activation_checkpointing import enable_checkpointing
from ftray.models.structure.cut import cut_off
from ftray.models.structure.placing import placed
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.tasks import Task, get_task
from ftray.tasks.base import Augment, Collate, TaskSetup
from ftray.tasks.classification import LABEL
from ftray.tasks.features import Batch, Example
from ftray.train.base import Base
from ftray.train.checkpoint import stored
from ftray.train.distributed.context import DistContext
from ftray.train.distributed.feed import feed
from ftray.train.engine import lora, state
from ftray.train.engine.deepspeed import Engine
from ftray.train.engine.phased import PhasedEngine
from ftray.train.engine.state import State
from ftray.train.memory.batch_size_finder import choose_micro_batch_size
from ftray.train.memory.hardware import peak_of
from ftray.train.plan import Trainee, plan_training
from ftray.train.progress import Progress
from ftray.train.reference import ReferenceFile
from ftray.train.trunk_cache.cache import SAMPLE, STATES, Trunk, TrunkCache, best_cache


@dataclass(frozen=True)
class TrainContext:
    """Everything that the training loop needs, already built."""

    spec: Spec
    task: Task
    phased: PhasedEngine
    train: EncodedSplit
    validation: EncodedSplit
    task_setup: TaskSetup
    batches: BatchPlan
    terms: np.ndarray
    """(examples,) loss terms of each example of `train`."""
    augment: Augment | None = None
    """Changes training examples at random; None where they stay as they are."""
    row_weights: np.ndarray | None = None
    """(rows,) loss weight of each row of `train`; None where all rows have the same weight."""
    trunk: Trunk | None = None
    """Cached hidden states of the frozen blocks; None where the model was not cut above them."""
    peak: float | None = None
    """FLOP/s of the devices of all ranks; None where it is not known, or tokens do not tell the
    FLOP of a step."""
    pack: Collate | None = None
    """Makes batches with several examples in a row; None where the task's `collate` makes them."""

    def batch(self, split: EncodedSplit, places: np.ndarray) -> Batch:
        """Make a batch of examples of a split, with what the trunk cache has of them."""
        # A rank without rows still runs its forward pass, on the shortest row of the split: some
        # models fail on a row that consists of padding only.
        examples = split.examples(places if len(places) else [int(split.lengths.argmin())])
        return self.collated(examples)

    def collated(self, examples: Sequence[Example]) -> Batch:
        """Make a batch, with what the trunk cache has of the examples."""
        collate = self.pack or partial(self.task.collate, self.task_setup)
        if self.trunk is None:
            return collate(examples)
        batch = collate(self.trunk.shortened(examples))
        batch.inputs[STATES] = self.trunk.states(examples, batch.layout)
        return batch

    def passes(self, split: EncodedSplit) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield this rank's batches in a pass over a split, on the device, each with the places of
        its examples. All ranks get the same number of batches; some may be without places."""
        ranks, size = self.phased.ranks, 2 * self.batches.micro_batch_size
        passes = measure.in_order(split.lengths, size, ranks.rank, ranks.world)
        fed = feed(lambda places: self.batch(split, places), passes, ranks.device)
        for places, batch in zip(passes, fed, strict=True):
            yield places, batch.to(ranks.device)

    @property
    def engine(self) -> Engine:
        return self.phased.engine

    def utilization(self, batch: np.ndarray, seconds: float) -> dict[str, float]:
        """Return {"mfu": ...}, the share of the devices' peak FLOP/s that a step on a global batch
        reached in `seconds`; empty where the peak is not known."""
        if self.peak is None:
            return {}
        flop = self.phased.flop_per_token * int(self.train.lengths[batch].sum())
        return {"mfu": round(flop / (seconds * self.peak), 4)}

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spec.train.epochs * self.batches.steps_per_epoch


@contextmanager
def latest(
    folder: Location, ranks: DistContext, warn: Callable[[str], None]
) -> Iterator[Path | None]:
    """Yield a local folder with the newest undamaged checkpoint, which rank 0 chooses for all
    ranks; None where there is none."""
    found = stored.latest(folder, warn) if ranks.rank == 0 else None
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
) -> tuple[TrainContext, Progress]:
    """Build the run of `spec`, with the state of the checkpoint folder `resume` loaded if given.

    Training modifies `base.model` in place.
    """
    task = get_task(spec.task)
    train = data.load("train")
    progress = stored.read_progress(resume) if resume else Progress()
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
        together=_together(spec, train),
        steps=spec.train.steps_per_epoch,
    )
    setup = TrainContext(
        spec=spec,
        task=task,
        phased=PhasedEngine(trainee, spec.train, batches, ranks),
        train=train,
        validation=data.load("validation"),
        task_setup=base.setup,
        batches=batches,
        terms=task.terms(train.column, train.lengths),
        augment=augment,
        row_weights=weights if spec.train.balance == "weights" else None,
        trunk=trainee.trunk,
        peak=_peak(spec, base.model, ranks),
        pack=task.packing(base.model, base.setup),
    )
    epoch, held = progress.epoch_at_hand(spec.train), state.read(resume) if resume else None
    if task.from_base:
        setup = _compared(setup, ReferenceFile.of(data, spec, trainee, ranks), epoch, held)
    setup.phased.enter(epoch, held)
    return setup, progress


def _compared(
    setup: TrainContext, file: ReferenceFile, epoch: int, held: State | None
) -> TrainContext:
    """Return the run with what the base model gives for its examples, which is computed unless it
    is kept. held: the state to resume from."""
    splits = {"train": setup.train, "validation": setup.validation}
    known = file.read(splits)
    if not setup.phased.ranks.all_agree(known is not None):
        setup.phased.enter(epoch)
        engine = setup.engine
        engine.eval_mode()
        known = {
            name: computed(
                engine.outputs,
                setup.passes(split),
                split,
                setup.task,
                setup.task_setup,
                engine.ranks,
            )
            for name, split in splits.items()
        }
        engine.train_mode()
        file.write(known)
        if held is not None:
            setup.phased.leave()  # the next engine begins with the state that is held
    assert known is not None
    train, validation = (split.having(known[name]) for name, split in splits.items())
    return replace(setup, train=train, validation=validation)


def _peak(spec: Spec, model: Any, ranks: DistContext) -> float | None:
    # A token passes either the encoder or the decoder. An image has no tokens.
    if not spec.info.reads_text or getattr(model.config, "is_encoder_decoder", False):
        return None
    each = peak_of(ranks.device)
    return each and each * ranks.world


def _together(spec: Spec, train: EncodedSplit) -> int:
    """Return how many examples of a row a batch must keep together. Raises SpecError where a batch
    does not hold two such rows, of which the loss of one depends on the other."""
    if not spec.info.couples_rows:
        return 1
    width, size = int((train.rows == train.rows[0]).sum()), spec.train.batch_size
    if size < 2 * width:
        raise SpecError.of(
            "train.batch_size",
            size,
            f"the loss compares the rows of a batch, and each has {width} texts",
            f"set {2 * width} or more, such as {64 * width}",
        )
    return width


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
    with placed(model, ranks.device, torch.float32):
        trunk.check(spec, model, task, base.setup, sample)
    return Trainee(model, plan, task, base.setup, trunk, cut_off(model, cache.cut))
