"""Computes examples of several models at once, and runs blocks that models share only once.

Rows run through the lower blocks together as far as the lineages of their models are equal, and are
split into groups where the lineages differ. A text that several models are asked about is a single
row up to the split.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ftray.models.inference.predictor import Predictor, each_of
from ftray.models.sharing.prefix_hash import Lineage
from ftray.models.structure.cut import Cut, capture, cut_for_now
from ftray.tasks.base import Outputs
from ftray.tasks.features import Example, cost, input_digest


@dataclass(frozen=True)
class _Row:
    place: int
    predictor: Predictor
    example: Example
    key: bytes
    """Equal for equal inputs of the model."""
    states: torch.Tensor | None = None
    """Hidden states (T, D) at the boundary that the row has reached; None at the start."""


def joint_outputs(rows: Sequence[tuple[Predictor, Example]]) -> list[Outputs]:
    """Return the model's outputs for each example, float32 on the CPU, equal up to rounding to
    those of `Predictor.outputs_of`."""
    found: dict[int, Outputs] = {}
    everyone = [
        _Row(place, who, example, input_digest(example, who.features))
        for place, (who, example) in enumerate(rows)
    ]
    for group in _groups(everyone, lambda row: _kin(row.predictor, 1)):
        _climb(group, 0, found)
    return [found[place] for place in range(len(rows))]


def _kin(predictor: Predictor, boundary: int) -> Hashable:
    """Return a key that is equal for predictors that share the blocks below a boundary."""
    lineage = predictor.lineage
    if lineage is None or boundary >= len(lineage.prefixes):
        return id(predictor)
    return lineage.prefixes[boundary], predictor.setup.processor.pad_token_id


def _groups(rows: Iterable[_Row], key: Callable[[_Row], Hashable]) -> list[list[_Row]]:
    found: dict[Hashable, list[_Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.values())


def _climb(rows: Sequence[_Row], start: int, found: dict[int, Outputs]) -> None:
    """Put into `found` the outputs of rows whose models are equal up to the boundary `start`, and
    whose hidden states there are known."""
    predictor, lineage = rows[0].predictor, rows[0].predictor.lineage
    others = {id(row.predictor): row.predictor for row in rows[1:]}
    others.pop(id(predictor), None)
    if not others:
        _finish(rows, start, found)
        return
    assert lineage is not None, "without one a model is a group of its own"
    stop = min(_shared(lineage, other) for other in others.values())
    risen = _raised(rows, start, stop) if stop > start else rows
    for group in _groups(risen, lambda row: _kin(row.predictor, stop + 1)):
        _climb(group, stop, found)


def _shared(lineage: Lineage, other: Predictor) -> int:
    assert other.lineage is not None, "it is of the same kin"
    return lineage.shared(other.lineage)


def _raised(rows: Sequence[_Row], start: int, stop: int) -> list[_Row]:
    """Return the rows with their hidden states at `stop`; rows of equal inputs are computed
    once."""
    first = {row.key: row for row in reversed(rows)}
    unique = list(first.values())
    predictor, lineage = unique[0].predictor, unique[0].predictor.lineage
    assert lineage is not None, "rows of several models"
    risen: dict[bytes, torch.Tensor] = {}
    for chosen in predictor.passes([row.example for row in unique]):
        batch = [unique[place] for place in chosen]
        with _continued(predictor, batch, start) as inputs:
            (states,) = capture(
                predictor.model, [Cut(stop, lineage.returns)], inputs, lineage.blocks
            )
        risen.update(
            (row.key, state[: cost(row.example, predictor.features)])
            for row, state in zip(batch, states.unbind(), strict=True)
        )
    return [replace(row, states=risen[row.key]) for row in rows]


def _finish(rows: Sequence[_Row], start: int, found: dict[int, Outputs]) -> None:
    predictor = rows[0].predictor
    for chosen in predictor.passes([row.example for row in rows]):
        batch = [rows[place] for place in chosen]
        with _continued(predictor, batch, start) as inputs:
            answer = predictor.task.infer(predictor.model, inputs, predictor.setup)
            outputs = each_of(answer)
        found.update((row.place, own) for row, own in zip(batch, outputs, strict=True))


@contextmanager
def _continued(
    predictor: Predictor, rows: Sequence[_Row], start: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the inputs of a forward pass that starts from the states of `rows` at the boundary
    `start`."""
    inputs = predictor.batch([row.example for row in rows]).inputs
    with predictor.inference():
        if not start:
            yield inputs
            return
        lineage = predictor.lineage
        assert lineage is not None, "rows that have states"
        with cut_for_now(predictor.model, Cut(start, lineage.returns), lineage.blocks) as replay:
            states = [row.states for row in rows if row.states is not None]
            replay.feed(torch.nn.utils.rnn.pad_sequence(states, batch_first=True))
            yield inputs
