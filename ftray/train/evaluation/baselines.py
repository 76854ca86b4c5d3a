"""Baselines without fine-tuning: the most frequent label, and a linear probe on the base model.

The probe is a logistic regression (Alain & Bengio 2016) on features of the frozen base model: the
mean of the last hidden states over a text's tokens. Fitting the probe takes seconds, and shows
before the training begins which metrics the training has to beat.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ftray.data.batches import in_order
from ftray.data.encoding.encode import EncodedDataset, EncodedSplit
from ftray.errors import ModelError, StorageError
from ftray.models.structure.placing import placed
from ftray.store.files.location import Location
from ftray.tasks import Task
from ftray.train.distributed.context import DistContext
from ftray.train.evaluation.significance import Answers

_ROWS = {"train": 1_000, "validation": 500}
_BATCH = 32
_ITERATIONS = 1_000


@dataclass(frozen=True)
class Encoder:
    """Computes features with the unchanged base model, which is moved to the device of `ranks` and
    back."""

    model: Any
    task: Task
    pad_id: int
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
            with placed(model, device):
                for places in shares:
                    batch = self.task.collate([split.ids_of(r) for r in rows[places]], self.pad_id)
                    batch = {name: part.to(device) for name, part in batch.items()}
                    with torch.no_grad():
                        model(**batch)
                    mask = batch["attention_mask"][..., None]
                    hidden = seen.pop().float()
                    seen.clear()
                    yield places, ((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy()
        finally:
            handle.remove()


@dataclass(frozen=True)
class Baselines:
    """Two baseline models. The majority baseline always predicts the label with index `majority`.
    The linear probe predicts the label with the highest (features - mean) / scale @ weight.T +
    bias, with weight (C, D), bias (C,), mean and scale (D,)."""

    majority: int
    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the probe's predictions for (B, D) features: (B,) label indices."""
        return ((features - self.mean) / self.scale @ self.weight.T + self.bias).argmax(-1)

    def answers(self, encoder: Encoder, split: EncodedSplit) -> np.ndarray:
        """Return the probe's predictions for all rows of a split, in order. The encoder must have
        one rank."""
        answers = np.empty(len(split), dtype=np.int64)
        for places, features in encoder.features(split, np.arange(len(split))):
            answers[places] = self.predict(features)
        return answers

    def write(self, file: Location) -> None:
        """Write the baselines to `file` atomically. Raises StorageFault."""
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in vars(self).items()}
        file.write_bytes(save(tensors))

    @classmethod
    def read(cls, file: Location) -> Baselines | None:
        """Read the baselines from `file`; returns None if the file does not exist. Raises
        StorageError if the file is damaged."""
        if not file.is_file():
            return None
        try:
            values = {name: value.numpy() for name, value in load(file.read_bytes()).items()}
            return cls(majority=int(values.pop("majority")), **values)
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
    features, targets = _gathered(encoder, train, _sample(train, "train", seed))
    held_out, truth = _gathered(encoder, validation, _sample(validation, "validation", seed))
    if encoder.ranks.rank:
        return None
    classes = len(data.labels)
    majority = int(np.bincount(train.targets, minlength=classes).argmax())
    baselines = Baselines(majority, *_fit(features, targets, classes))
    answers = (np.full_like(truth, majority), baselines.predict(held_out))
    scores = Answers.of(truth, answers, classes).scores().tolist()
    named = [dict(zip(("accuracy", "f1_macro"), pair, strict=True)) for pair in scores]
    seconds = time.perf_counter() - started
    event = {"kind": "baseline", "majority": named[0], "probe": named[1], "rows": len(truth)}
    return baselines, {**event, "seconds": seconds}


def _sample(split: EncodedSplit, name: str, seed: int) -> np.ndarray:
    rows = len(split)
    chosen = np.random.default_rng(seed).choice(rows, min(rows, _ROWS[name]), replace=False)
    return np.sort(chosen)


def _gathered(
    encoder: Encoder, split: EncodedSplit, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gather features (len(rows), D) and targets (len(rows),) from all ranks, in the order of
    `rows`."""
    parts = encoder.ranks.gather(list(encoder.features(split, rows)))
    places, features = zip(*(batch for part in parts for batch in part), strict=True)
    order = np.argsort(np.concatenate(places))
    return np.concatenate(features)[order], split.targets[rows]


def _fit(
    features: np.ndarray, targets: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit the probe; returns weight, bias, mean and scale. The probe never predicts a label that no
    row has."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    weight = np.zeros((classes, features.shape[1]))
    bias = np.full(classes, -np.inf)
    known = np.unique(targets)
    bias[known] = 0.0
    if len(known) > 1:
        fitted = LogisticRegression(max_iter=_ITERATIONS).fit(scaler.transform(features), targets)
        # For two labels scikit-learn returns weights of the second label only; the weights of the
        # first label are zero.
        own = known[1:] if len(known) == 2 else known
        weight[own], bias[own] = fitted.coef_, fitted.intercept_
    return weight, bias, scaler.mean_, scaler.scale_


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
