"""Offline prediction: answers every row of a source, with as many Ray actors as fit."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ftray.cluster.capacity import has_gpus, pool_size, require
from ftray.cluster.connection import Resources
from ftray.data.cleaning.clean import clean_each, decoded
from ftray.data.cleaning.faults import Dropped, Faults, no_usable_row, refuse_faults
from ftray.data.cleaning.report import NO_TOKENS
from ftray.data.encoding.ray_data_output import quiet_ray_data
from ftray.data.readers.rows import Source
from ftray.data.sources import asked_columns, batches_of
from ftray.errors import DataError, FtrayError, RunFailed, from_json
from ftray.models.artifact.named import NamedModel
from ftray.offline.resume import COLUMNS, SCHEMA, Parts
from ftray.spec.load import parse
from ftray.spec.sections.compute import Compute
from ftray.tasks import Task, get_task
from ftray.tasks.base import Question

if TYPE_CHECKING:
    from ftray.models.inference.loaded import LoadedModel, Outcome

BLOCK_ROWS = 512
"""Rows that an actor takes at a time. The actor sorts these rows by length and cuts them into
batches."""
_OBJECT = "object"
"""Column with questions that are objects, as JSON."""
_REFUSED = "refused"
"""Column of a block without answers, with the error."""


@dataclass(frozen=True)
class Rows:
    """The rows of a source, in its order."""

    values: list[dict[str, Any]]
    """Column -> value, as found."""
    questions: list[Question]
    """The question of each row, which the model answers."""
    left_out: list[dict[str, Any]]
    """Bad rows with the reason, where the model's spec says to skip bad rows."""
    places: list[str]
    """The place of each row, FILE:LINE."""
    source: Source
    skips: bool
    """Whether bad rows are skipped; else they raise DataError."""

    @property
    def read(self) -> int:
        """Rows of the source, bad ones included."""
        return len(self.values) + len(self.left_out)

    def without(self, unread: Collection[int]) -> Rows:
        """Return these rows without those at the places `unread`, which give the model nothing to
        read. Raises DataError where bad rows are not skipped, and where no other rows are left."""
        if not unread:
            return self
        kinds = dict.fromkeys(sorted(unread), NO_TOKENS)
        faults = Faults.of(kinds, lambda rows: [self.places[row] for row in rows])
        if not self.skips:
            raise DataError(faults.problem(self.source, self.read))
        kept = [place for place in range(len(self.questions)) if place not in unread]
        if not kept:
            raise faults.none_left(self.source)
        dropped = [
            Dropped("data", self.places[row], NO_TOKENS, "", self.values[row]) for row in kinds
        ]
        return replace(
            self,
            values=[self.values[place] for place in kept],
            questions=[self.questions[place] for place in kept],
            places=[self.places[place] for place in kept],
            left_out=[*self.left_out, *(row.to_json() for row in dropped)],
        )


def read_rows(
    model: NamedModel,
    source: str,
    columns: Mapping[str, str],
    encoding: str | None,
    added: Sequence[str],
) -> Rows:
    """Read the rows of `source`, to which prediction will add the columns `added`. `columns`
    (logical column -> its name in the source) and `encoding` are as in the model's spec unless
    given.

    Raises DataError when the source cannot be read, has faulty rows (unless the spec skips them)
    or has one of the columns `added` already.
    """
    spec, task = parse(model.info.spec), get_task(model.info.task)
    asking = asked_columns(spec.columns, task)
    columns = {logical: columns.get(logical, name) for logical, name in asking.items()}
    encoding = encoding or spec.data.encoding
    csv = spec.data.csv
    asked = Source(
        "--data",
        source,
        columns,
        encoding,
        "test",
        files=task.info.files,
        every_column=True,
        flags=asked_columns(spec.data.columns.flags, task),
        csv=csv,
        sequences=task.info.sequences,
    )
    rows = _answerable(asked, task, spec.data.on_bad_row == "skip")
    for name in added:
        if any(name in row for row in rows.values):
            raise DataError.of("--data", source, f"has a column {name} already", "rename it")
    return rows


def _answerable(source: Source, task: Task, skips: bool) -> Rows:
    """Read the rows of a source, and set bad ones aside. Raises DataError."""
    rows, faults, beyond_ascii = Rows([], [], [], [], source, skips), Faults(), 0
    for batch in batches_of(source):
        raw = decoded(batch, source)
        kept, questions, bad = clean_each(raw, task.ask)
        rows.values.extend(dict(batch.rows[index]) for index in kept)
        rows.questions.extend(questions)
        rows.places.extend(batch.where(index) for index in kept)
        for index, fault in sorted(bad.items()):
            where = batch.where(index)
            faults.add(where, fault)
            row = Dropped("data", where, fault.kind, fault.detail, batch.rows[index])
            rows.left_out.append(row.to_json())
        beyond_ascii += raw.beyond_ascii
    if not rows.read:
        raise source.error("no rows in it", "name a source with rows")
    if not skips:
        refuse_faults([faults.described(source, rows.read, {}, (), beyond_ascii)])
    if not rows.values:
        raise no_usable_row(source, faults.counts)
    return rows


@dataclass(frozen=True)
class Answers:
    """The answered rows. outcomes: the columns that prediction adds to each row; probabilities: of
    all labels for each row; cut: number of questions that are longer than the model reads."""

    rows: Rows
    outcomes: list[dict[str, Any]]
    probabilities: list[list[float] | None]
    cut: int


def predict(
    model: NamedModel, rows: Rows, compute: Compute, parts: Parts, probabilities: bool = False
) -> Answers:
    """Answer `rows`, and put the answers into `parts`; answers that `parts` already holds are not
    computed again. probabilities: whether to return the probabilities of all labels.

    Needs a connection to Ray. Raises ModelError when the model no longer reproduces its golden
    answers, ClusterError when not one actor fits, DataError where parts cannot be written and for
    rows without any token where bad rows are not skipped, RunFailed when Ray Data fails.
    """
    from ray.exceptions import RayError

    each = Resources(1, 1 if has_gpus() and not compute.on_cpu else 0)
    require(1, each, "ftray predict")
    found, questions = parts.read(), rows.questions
    rows.without(_unread(found))
    known = set(found["row"].to_pylist())
    missing = [row for row in range(len(questions)) if row not in known]
    if missing:
        try:
            with quiet_ray_data():
                scored = _scored(model, questions, missing, each, compute, probabilities)
                _keep(scored, parts, rows)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RunFailed.of(model.name, None, last, "see the logs of Ray Data") from error
    answers = parts.read()
    assert answers["row"].to_pylist() == list(range(len(questions))), "Ray Data lost rows"
    answered = rows.without(_unread(answers))
    found = answers.filter(answers[COLUMNS].is_valid())
    outcomes = [json.loads(told) for told in found[COLUMNS].to_pylist()]
    shares, cut = found["probabilities"].to_pylist(), sum(found["cut"].to_pylist())
    return Answers(answered, outcomes, shares, cut)


def _unread(answers: pa.Table) -> set[int]:
    """Return the numbers of the rows without an answer, which give the model nothing to read."""
    return set(answers["row"].filter(answers[COLUMNS].is_null()).to_pylist())


def _scored(
    model: NamedModel,
    questions: Sequence[Question],
    rows: Sequence[int],
    each: Resources,
    compute: Compute,
    probabilities: bool,
) -> Any:
    """Return a Ray data set with the answers to `rows`, numbers of rows in `questions`. The answers
    have the columns of `SCHEMA` and come in any order; a block with an error has one column
    `_REFUSED`."""
    import ray.data

    # Rows of similar length share batches, with little padding. The longest rows come first, so
    # that no actor works on long rows at the end while the others are idle.
    task = get_task(model.info.task)
    order = sorted(rows, key=lambda index: -task.size(questions[index]))
    asked = [questions[i] for i in order]
    if any(isinstance(question, Mapping) for question in asked):
        # The values of a field may be of several types, which no column of Arrow holds.
        column = {_OBJECT: pa.array([json.dumps(question) for question in asked])}
    else:
        column = {"question": pa.array(asked)}
    table = pa.table({"row": pa.array(order, pa.int64()), **column})
    blocks = [table.slice(start, BLOCK_ROWS) for start in range(0, len(order), BLOCK_ROWS)]
    return ray.data.from_arrow(blocks).map_batches(
        _Scorer,
        fn_constructor_args=(model, math.floor(each.cpus), compute, probabilities),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool_size(each, len(blocks))),
        num_cpus=each.cpus,
        num_gpus=each.gpus,
    )


def _keep(scored: Any, parts: Parts, rows: Rows) -> None:
    """Put the answers into `parts` as they come. Raises DataError at the first row without any
    token where bad rows are not skipped, and at the end the error of a refused block."""
    refused: FtrayError | None = None
    for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        if _REFUSED in batch.column_names:
            refused = from_json(json.loads(batch[_REFUSED][0].as_py()))
            continue
        parts.add(batch.select(SCHEMA.names))
        if not rows.skips:
            rows.without(_unread(batch))
    if refused:
        raise refused


class _Scorer:
    """Predicts blocks with the model, in one actor.

    The actor loads the model for the first block, not in its constructor: Ray Data repeats a failed
    constructor, and prints its error at length on the user's terminal. The actor returns an
    FtrayError as a block of its own instead of raising it: an exception that Ray Data raises keeps
    the actors, and the CPUs they hold, for as long as anything refers to the exception.
    """

    def __init__(
        self, served: NamedModel, threads: int, compute: Compute, probabilities: bool
    ) -> None:
        self._served = served
        self._threads = threads
        self._compute = compute
        self._probabilities = probabilities

    @cached_property
    def _model(self) -> LoadedModel:
        import torch

        from ftray.models.load import load_model

        torch.set_num_threads(self._threads)
        served, compute = self._served, self._compute
        model = load_model(
            served.folder, compute=compute, trust_remote_code=served.trust_remote_code
        )
        model.check_golden()
        return model

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            if _OBJECT in block.column_names:
                questions = [json.loads(question) for question in block[_OBJECT].to_pylist()]
            else:
                questions = block["question"].to_pylist()
            found, cut = self._model.outcomes(questions), self._model.cut(questions)
        except FtrayError as error:
            return pa.table({_REFUSED: [json.dumps(error.to_json())]})
        rows = zip(block["row"].to_pylist(), found, cut, strict=True)
        return pa.Table.from_pylist([self._told(*row) for row in rows], SCHEMA)

    def _told(self, row: int, outcome: Outcome | None, cut: bool) -> dict[str, Any]:
        if outcome is None:
            return {"row": row, "cut": cut}
        shares = outcome.probabilities if self._probabilities else None
        told = json.dumps(outcome.columns)
        return {"row": row, COLUMNS: told, "probabilities": shares, "cut": cut}
