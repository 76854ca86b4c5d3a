"""Offline prediction: every row of a source gets its answer, from as many actors as fit."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ftray.capacity import has_gpus, pool_size, require
from ftray.cluster import Resources
from ftray.data import cleaning
from ftray.data.quiet import quiet_ray_data
from ftray.data.rows import Source
from ftray.data.sources import asked_columns, rows_of
from ftray.errors import DataError, FtrayError, RunFailed
from ftray.serve.output import OUTCOME
from ftray.serve.parts import COLUMNS, Parts
from ftray.serve.settings import ServedModel
from ftray.spec.compute import Compute
from ftray.spec.load import parse
from ftray.store.location import locate
from ftray.tasks import get_task

if TYPE_CHECKING:
    from ftray.models.loaded import LoadedModel

BLOCK_ROWS = 512
"""Rows that an actor takes at a time; it sorts them by length and cuts them into batches."""
_REFUSED = "refused"
"""The column of a block that says why there are no answers."""


@dataclass(frozen=True)
class Rows:
    """The rows of a source, in its order."""

    values: list[dict[str, Any]]
    """Column -> value, as found."""
    texts: list[str]
    """What the model reads of each row."""
    left_out: list[dict[str, Any]]
    """Rows that cannot be read and why, where the model's spec says to skip those."""


def read_rows(model: ServedModel, source: str, text: str | None, encoding: str | None) -> Rows:
    """The rows of `source`. `text` and `encoding` are as in the model's spec unless given.

    Raises DataError when the source cannot be read, has faulty rows (unless the spec skips them)
    or has the columns that prediction adds.
    """
    spec, task = parse(model.info.spec), get_task(model.info.task)
    asking = asked_columns(spec.columns, task)
    columns = {logical: text or name for logical, name in asking.items()}
    encoding = encoding or spec.data.encoding
    csv = spec.data.csv
    asked = Source("--data", source, columns, encoding, "test", every_column=True, csv=csv)
    part = cleaning.clean("data", asked, rows_of(asked), task, answered=False)
    if spec.data.on_bad_row == "fail":
        cleaning.refuse_faults([part])
    cleaning.require_rows(part)
    values = [dict(item.raw.values) for item in part.kept]
    for name in OUTCOME:
        if any(name in row for row in values):
            raise DataError.of("--data", source, f"has a column {name} already", "rename it")
    left_out = [row.to_json() for row in part.dropped]
    return Rows(values, [item.row[task.columns[0]] for item in part.kept], left_out)


@dataclass(frozen=True)
class Answers:
    """The prediction for each text and how sure the model is of it, as `LoadedModel.outcomes` gives
    them, in the order of the texts; `cut` of the texts are longer than the model reads."""

    predictions: list[str]
    scores: list[float]
    cut: int


def predict(model: ServedModel, texts: Sequence[str], compute: Compute, parts: Parts) -> Answers:
    """The answers to `texts`; what `parts` holds already is not computed again.

    Needs a connection to Ray. Raises ModelError when the model no longer gives its golden answers,
    ClusterError when not one actor fits, DataError where parts cannot be written, RunFailed when
    Ray Data fails.
    """
    from ray.exceptions import RayError

    each = Resources(1, 1 if has_gpus() and not compute.on_cpu else 0)
    require(1, each, "ftray predict")
    known = set(parts.read()["row"].to_pylist())
    missing = [row for row in range(len(texts)) if row not in known]
    if missing:
        try:
            with quiet_ray_data():
                _keep(_scored(model, texts, missing, compute, each), parts)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RunFailed.of(model.name, None, last, "see the logs of Ray Data") from error
    answers = parts.read()
    assert answers["row"].to_pylist() == list(range(len(texts))), "Ray Data lost rows"
    columns = (answers[name].to_pylist() for name in COLUMNS[1:])
    predictions, scores, cut = columns
    return Answers(predictions, scores, sum(cut))


def _scored(
    model: ServedModel, texts: Sequence[str], rows: Sequence[int], compute: Compute, each: Resources
) -> Any:
    """A Ray data set of `parts.COLUMNS`, in any order."""
    import ray.data

    # Rows of like length side by side: little padding. The longest first: no straggler at the end.
    order = sorted(rows, key=lambda index: -len(texts[index]))
    table = pa.table(
        {
            "row": pa.array(order, pa.int64()),
            "text": pa.array([texts[i] for i in order], pa.large_string()),
        }
    )
    blocks = [table.slice(start, BLOCK_ROWS) for start in range(0, len(order), BLOCK_ROWS)]
    return ray.data.from_arrow(blocks).map_batches(
        _Scorer,
        fn_constructor_args=(model.folder.url, math.floor(each.cpus), compute),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool_size(each, len(blocks))),
        num_cpus=each.cpus,
        num_gpus=each.gpus,
    )


def _keep(scored: Any, parts: Parts) -> None:
    refused: FtrayError | None = None
    for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        if _REFUSED in batch.column_names:
            refused = pickle.loads(batch[_REFUSED][0].as_py())
            continue
        parts.add(batch.select(list(COLUMNS)))
    if refused:
        raise refused


class _Scorer:
    """The model in one actor.

    It is loaded for the first block: what goes wrong in a constructor is tried again, and told at
    length on the user's terminal. An FtrayError is given back as a block of its own, not raised:
    what Ray Data raises keeps its actors, and the CPUs they hold, for as long as it is referred to.
    """

    def __init__(self, folder: str, threads: int, compute: Compute) -> None:
        self._folder = folder
        self._threads = threads
        self._compute = compute

    @cached_property
    def _model(self) -> LoadedModel:
        import torch

        from ftray.models.load import load_model

        torch.set_num_threads(self._threads)
        model = load_model(locate(self._folder), compute=self._compute)
        model.check_golden()
        return model

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            texts = block["text"].to_pylist()
            outcomes, cut = self._model.outcomes(texts), self._model.cut(texts)
        except FtrayError as error:
            return pa.table({_REFUSED: [pickle.dumps(error)]})
        columns = {"row": block["row"], "cut": pa.array(cut)}
        for name, values in zip(OUTCOME, zip(*outcomes, strict=True), strict=True):
            columns[name] = pa.array(values)
        return pa.table(columns)
