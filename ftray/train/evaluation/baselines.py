"""Baselines without fine-tuning: a constant (the most frequent label, or the mean numbers), and a
linear probe on the base model.

The probe is a logistic or a ridge regression (Alain & Bengio 2016) on features of the frozen base
model: the mean of the last hidden states over a text's tokens, or over an image's patches. Fitting
the probe takes seconds, and shows before the training begins which metrics the training has to
beat.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ftray.data.encoding.encode import EncodedDataset, EncodedSplit
from ftray.errors import ModelError, StorageError
from ftray.models.inference.measure import in_order
from ftray.models.inference.significance import answers_of
from ftray.store.files.location import Location
from ftray.tasks import Task
from ftray.tasks.base import TaskSetup
from ftray.tasks.classification import LABEL
from ftray.tasks.regression import NUMBERS
from ftray.train.distributed.context import DistContext

_ROWS = {"train": 1_000, "validation": 500}
_BATCH = 32
_ITERATIONS = 1_000
_PENALTIES = tuple(10.0**power for power in range(-1, 6))


@dataclass(frozen=True)
class Encoder:
    """Computes features with the unchanged base model, which lies on the device of `ranks`."""

    model: Any
    task: Task
    setup: TaskSetup
    ranks: DistContext

    def features(
        self, split: EncodedSplit, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the features of this rank's part of `rows` in batches: (B,) positions in `rows`,
        and (B, D) float32 features.

        The split into batches does not depend on the number of ranks. Raises ModelError if the
        model's body does not return last_hidden_state.
        """
        model, device = self.model.eval(), self.ranks.device
        seen: list[torch.Tensor] = []
        # Run the whole model with a hook on its body, as the bodies of different model families
        # take different arguments.
        handle = model.base_model.register_forward_hook(
            lambda _module, _args, output: seen.append(_hidden(model, output))
        )
        shares = in_order(split.lengths[rows], _BATCH, self.ranks.rank, self.ranks.world)
        try:
            for places in shares:
                # A rank without rows still runs its pass, as sharded weights need.
                used = rows[places] if len(places) else rows[:1]
                batch = self.task.collate(self.setup, split.examples(used))
                inputs = batch.to(device).inputs
                with torch.no_grad():
                    self.task.forward(model, inputs)
                hidden = seen.pop().float()
                seen.clear()
                if len(places):
                    yield places, _pooled(hidden, inputs.get("attention_mask")).cpu().numpy()
        finally:
            handle.remove()


@dataclass(frozen=True)
class Baselines:
    """Two baseline models. The constant baseline predicts `constant` for every row: the index of
    the commonest label, or the mean numbers (C,). The linear probe computes (features - mean) /
    scale @ weight.T + bias, with weight (C, D), bias (C,), mean and scale (D,); where `picks`, it
    predicts the label with the highest result, else the results, which are standardized numbers.
    kept: predictions for the test split of a model that is not kept itself."""

    constant: np.ndarray
    picks: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    kept: np.ndarray = field(default_factory=lambda: np.empty(0))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the probe's predictions for (B, D) features: (B,) label indices, or (B, C)
        numbers."""
        found = (features - self.mean) / self.scale @ self.weight.T + self.bias
        return found.argmax(-1) if self.picks else found

    def constants(self, rows: int) -> np.ndarray:
        """Return the constant baseline's predictions for that many rows."""
        return np.repeat(self.constant[None], rows, axis=0)

    def answers(self, encoder: Encoder, split: EncodedSplit) -> np.ndarray:
        """Return the probe's predictions for all rows of a split, in order. Every rank of the
        encoder must call this method."""
        if len(self.kept):
            assert len(self.kept) == len(split), "predictions are for the test split"
            return self.kept
        answers = self.constants(len(split)).astype(np.int64 if self.picks else np.float64)
        batches = encoder.features(split, np.arange(len(split)))
        for part in encoder.ranks.gather([(at, self.predict(each)) for at, each in batches]):
            for places, found in part:
                answers[places] = found
        return answers

    def write(self, file: Location) -> None:
        """Write the baselines to `file` atomically. Raises StorageFault."""
        tensors = {
            n: torch.from_numpy(np.asarray(value, order="C")) for n, value in vars(self).items()
        }
        file.write_bytes(save(tensors))

    @classmethod
    def read(cls, file: Location) -> Baselines | None:
        """Read the baselines from `file`; returns None if the file does not exist. Raises
        StorageError if the file is damaged."""
        if not file.is_file():
            return None
        try:
            values = {name: value.numpy() for name, value in load(file.read_bytes()).items()}
            if "majority" in values:  # written by an older ftray
                values |= {"constant": values.pop("majority"), "picks": np.asarray(True)}
            return cls(**values)
        except (SafetensorError, KeyError, TypeError) as error:
            fix = "delete the file: the model is then exported without baselines"
            raise StorageError.of(str(file), None, f"cannot be read: {error}", fix) from None


def fit_baselines(
    encoder: Encoder, data: EncodedDataset, seed: int
) -> tuple[Baselines, dict[str, Any]] | None:
    """Fit the baselines to a sample of the training split, and evaluate them on a sample of the
    validation split. Rank 0 returns the baselines and the event with their metrics; other ranks
    return None.

    Every rank must call this function, as each rank computes the features of its part of the rows.
    """
    started = time.perf_counter()
    train, validation = data.load("train"), data.load("validation")
    aim = NUMBERS if data.schema.scale else LABEL
    chosen, held_out = _sample(train, "train", seed), _sample(validation, "validation", seed)
    features, targets = _gathered(encoder, train, chosen), train.column(aim)
    seen, truth = _gathered(encoder, validation, held_out), validation.column(aim)[held_out]
    if encoder.ranks.rank:
        return None
    if data.schema.scale:
        baselines = _fit_numbers(features, targets, chosen)
    else:
        baselines = _fit_labels(features, targets, chosen, len(data.labels))
    event = compared(baselines, data, truth, baselines.predict(seen), "probe")
    return baselines, {**event, "seconds": time.perf_counter() - started}


def compared(
    baselines: Baselines, data: EncodedDataset, truth: np.ndarray, told: np.ndarray, name: str
) -> dict[str, Any]:
    """Return the event with the metrics of the constant baseline, and of the model `name`, which
    predicts `told`. truth: as `answers_of` takes it."""
    answers = answers_of(data.schema, truth, (baselines.constants(len(truth)), told))
    constant, other = answers.scores().tolist()
    return {
        "kind": "baseline",
        "mean" if data.schema.scale else "majority": dict(
            zip(answers.metrics, constant, strict=True)
        ),
        name: dict(zip(answers.metrics, other, strict=True)),
        "rows": len(truth),
    }


def _sample(split: EncodedSplit, name: str, seed: int) -> np.ndarray:
    rows = len(split)
    chosen = np.random.default_rng(seed).choice(rows, min(rows, _ROWS[name]), replace=False)
    return np.sort(chosen)


def _gathered(encoder: Encoder, split: EncodedSplit, rows: np.ndarray) -> np.ndarray:
    """Gather features (len(rows), D) from all ranks, in the order of `rows`."""
    parts = encoder.ranks.gather(list(encoder.features(split, rows)))
    places, features = zip(*(batch for part in parts for batch in part), strict=True)
    return np.concatenate(features)[np.argsort(np.concatenate(places))]


def _fit_labels(
    features: np.ndarray, targets: np.ndarray, chosen: np.ndarray, classes: int
) -> Baselines:
    """Fit a logistic regression to the `chosen` rows, whose features are (rows, D). targets: label
    indices of all rows. The probe never predicts a label that no chosen row has."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    weight = np.zeros((classes, features.shape[1]))
    bias = np.full(classes, -np.inf)
    known = np.unique(targets[chosen])
    bias[known] = 0.0
    if len(known) > 1:
        model = LogisticRegression(max_iter=_ITERATIONS)
        fitted = model.fit(scaler.transform(features), targets[chosen])
        # For two labels scikit-learn returns weights of the second label only; the weights of the
        # first label are zero.
        own = known[1:] if len(known) == 2 else known
        weight[own], bias[own] = fitted.coef_, fitted.intercept_
    constant = np.bincount(targets, minlength=classes).argmax()
    return Baselines(
        np.asarray(constant), np.asarray(True), weight, bias, scaler.mean_, scaler.scale_
    )


def _fit_numbers(features: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> Baselines:
    """Fit a ridge regression to the `chosen` rows, whose features are (rows, D); cross-validation
    chooses its penalty. targets: standardized numbers of all rows, (all rows, C)."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    fitted = RidgeCV(_PENALTIES).fit(scaler.transform(features), targets[chosen])
    weight = np.atleast_2d(fitted.coef_)
    bias = np.atleast_1d(fitted.intercept_)
    return Baselines(targets.mean(0), np.asarray(False), weight, bias, scaler.mean_, scaler.scale_)


def _pooled(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of the last hidden states over tokens, patches or pixels, (B, D). hidden:
    (B, T, D), or (B, D, H, W) of a model with convolutions; mask: (B, T), where rows are padded."""
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    if mask is None:
        return hidden.mean(1)
    return (hidden * mask[..., None]).sum(1) / mask[..., None].sum(1)


def _hidden(model: Any, output: Any) -> torch.Tensor:
    """Return the last hidden states (B, T, D) from the output of the model's body."""
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise ModelError.of(
            "train.baselines",
            True,
            f"{type(model).__name__} does not say what its last hidden state is",
            "set train.baselines to false",
        )
    return hidden
