"""Prepares trained values for export: averages the best epochs and calibrates the logits, both by
the validation split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ftray.models.inference.measure import Measured, Split, measure
from ftray.models.limits import Loaded
from ftray.models.structure.placing import placed
from ftray.reports.answers.calibration import FEWEST, best_temperature
from ftray.store.files.location import Location
from ftray.tasks import get_task
from ftray.train.checkpoint.stored import best, best_epochs
from ftray.train.distributed.context import DistContext
from ftray.train.engine import lora, state
from ftray.train.evaluation.average import Values, greedy
from ftray.train.evaluation.temperature import divided, last_layer
from ftray.train.orders import Export


@dataclass(frozen=True)
class Finished:
    """The trained values to export. averaged: the epochs whose mean they are, none where they are
    those of the best epoch; temperature: what the logits are divided by."""

    values: Values
    averaged: tuple[int, ...] = ()
    temperature: float | None = None


def best_values(order: Export) -> Finished:
    """Return the trained values of the best epoch. Raises StorageError."""
    return Finished(_read(best(order.checkpoints)))


class Finisher:
    """Tries trained values on the validation split. Every rank has to make one and call its method
    `finished`."""

    def __init__(
        self,
        order: Export,
        loaded: Loaded,
        split: Split,
        size: int,
        ranks: DistContext,
        stage: Callable[[str], None],
    ) -> None:
        """loaded: the base model, whose weights change; split: the validation split; size: most
        examples of one pass; stage: receives a line about each result."""
        self._order, self._train, self._task = order, order.spec.train, get_task(order.spec.task)
        self._model, self._setup = loaded.model, loaded.setup
        self._split, self._size, self._ranks, self._stage = split, size, ranks, stage
        if self._train.lora is not None:
            lora.inject(self._model, order.spec)
        self._model.eval()
        # Checkpoints have what trained by then: the rest is as in the base model.
        self._base = {name: value.data for name, value in self._model.named_parameters()}
        self._base |= {name: value.clone() for name, value in self._model.named_buffers()}

    def finished(self) -> Finished:
        """Return the values to export. Raises StorageError."""
        train = self._train
        found = self._averaged(train.average) if train.average else best_values(self._order)
        return self._calibrated(found) if train.calibrate else found

    def _averaged(self, count: int) -> Finished:
        self._stage("exporting: averaging the weights of the best epochs")
        found, name = best_epochs(self._order.checkpoints, count), self._train.metric

        def metric(values: Values) -> float:
            return float(self._measured(values).metrics[name])

        epochs = [checkpoint.epoch for checkpoint in found]
        average = greedy(
            epochs, lambda place: _read(found[place].folder), metric, self._train, self._base
        )
        self._stage(f"exporting: {average.line()}")
        joined = average.epochs if len(average.epochs) > 1 else ()
        return Finished(average.values, joined)

    def _calibrated(self, found: Finished) -> Finished:
        """Divide the logits by the temperature with the lowest cross-entropy on the validation
        split. Leaves the values as they are, and says why, where that cannot be done."""
        self._stage("exporting: calibrating the probabilities")
        measured = self._measured(found.values, detailed=True)
        batch = self._task.collate(self._setup, self._split.examples([0]))
        name = last_layer(self._model, self._task, batch, len(self._setup.labels))
        shares = measured.details.shares if measured.details else None
        if len(measured.judged) < FEWEST:
            why = f"{len(measured.judged)} validation rows are fewer than {FEWEST}"
        elif shares is None or name is None:
            why = "the model gives no probabilities of labels by a linear layer"
        else:
            temperature = best_temperature(shares, measured.truth)
            self._stage(f"exporting: logits are divided by a temperature of {temperature:.3g}")
            values = divided(found.values, self._model.get_submodule(name), name, temperature)
            return replace(found, values=values, temperature=temperature)
        self._stage(f"exporting: not calibrated, as {why}")
        return found

    def _measured(self, values: Values, detailed: bool = False) -> Measured:
        state.load_values(self._model, {**self._base, **values})
        where = (self._setup, self._split, self._ranks.device, self._size, self._ranks)
        with placed(self._model, self._ranks.device):
            return measure(self._model, self._task, *where, detailed=detailed)


def _read(checkpoint: Location) -> Values:
    with checkpoint.as_local() as local:
        return state.trained_values(local)
