"""The file test_rows.parquet of a run: what the exported model answered to each row of the test
split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftray.store.files.location import Location

if TYPE_CHECKING:
    from ftray.models.inference.measure import Measured

FILE = "test_rows.parquet"
MOST_ROWS = 50_000
"""Most rows in the file; of a larger split it has rows that are spread evenly."""
_MOST_CHARACTERS = 2_000
"""Most characters of an answer; a longer text is cut."""
_SPLIT_ROWS = b"split_rows"


@dataclass(frozen=True)
class TestRows:
    """The outcome of N rows, in the order of the split. rows: their numbers in the split; lengths:
    their sizes (tokens of a text); losses; errors: how wrong each answer is, 0 where it is right,
    NaN where the task does not judge answers; scores: the model's confidence, NaN where there is
    none; truth, predicted: label names, numbers or texts; shares: (N, C) probabilities of the
    labels; split_rows: rows of the whole split."""

    __test__ = False  # no test, in spite of its name

    rows: np.ndarray
    lengths: np.ndarray
    losses: np.ndarray
    errors: np.ndarray
    scores: np.ndarray
    truth: Sequence[Any]
    predicted: Sequence[Any]
    shares: np.ndarray | None
    split_rows: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def are_judged(self) -> bool:
        return bool(np.isfinite(self.errors).any())

    @classmethod
    def of(
        cls,
        measured: Measured,
        rows: np.ndarray,
        lengths: np.ndarray,
        terms: np.ndarray,
        labels: Sequence[str] = (),
    ) -> TestRows:
        """Collect the outcomes of a split that was measured with details. rows, lengths, terms:
        (examples,) row, size and loss terms of each example; labels: those that predictions are
        indices of. Of several examples of a row, the one with the highest rank counts."""
        assert measured.details is not None
        ranks = [judged.rank for judged in measured.judged] or np.zeros(len(rows))
        order = np.lexsort((-np.asarray(ranks), rows))
        first = order[np.r_[True, np.diff(rows[order]) > 0]]
        kept = first[_spread(len(first))]
        judged = [measured.judged[place] for place in kept] if measured.judged else []
        shares = measured.details.shares
        named = (lambda index: labels[index]) if labels else (lambda answer: answer)
        return cls(
            rows[kept],
            lengths[kept],
            measured.details.losses[kept] / np.maximum(terms[kept], 1),
            _floats([each.error for each in judged] or [None] * len(kept)),
            _floats([each.score for each in judged] or [None] * len(kept)),
            [named(each.truth) for each in judged] or [None] * len(kept),
            [named(each.prediction) for each in judged] or [None] * len(kept),
            None if shares is None else shares[kept],
            len(first),
        )

    def write(self, file: Location) -> None:
        columns: dict[str, Any] = {
            "row": pa.array(self.rows, pa.int32()),
            "length": pa.array(self.lengths, pa.int32()),
            "loss": pa.array(self.losses, pa.float32()),
            "error": pa.array(self.errors, pa.float32()),
            "score": pa.array(self.scores, pa.float32()),
            "truth": pa.array(map(_as_json, self.truth), pa.string()),
            "predicted": pa.array(map(_as_json, self.predicted), pa.string()),
        }
        if self.shares is not None:
            flat = pa.array(self.shares.astype(np.float32).ravel())
            columns["shares"] = pa.FixedSizeListArray.from_arrays(flat, self.shares.shape[1])
        table = pa.table(columns).replace_schema_metadata({_SPLIT_ROWS: str(self.split_rows)})
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        file.write_bytes(content.getvalue())


def read_test_rows(folder: Location) -> TestRows | None:
    """Read the file in a run's folder; None where there is none."""
    file = folder / FILE
    if not file.is_file():
        return None
    table = pq.read_table(pa.BufferReader(file.buffer()))
    names = ("row", "length", "loss", "error", "score")
    numbers = [table[name].to_numpy() for name in names]
    texts = [[json.loads(text) for text in table[n].to_pylist()] for n in ("truth", "predicted")]
    shares = None
    if "shares" in table.column_names:
        shares = table["shares"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    rows, lengths, losses, errors, scores = numbers
    truth, predicted = texts
    whole = int(table.schema.metadata[_SPLIT_ROWS])
    return TestRows(rows, lengths, losses, errors, scores, truth, predicted, shares, whole)


def _spread(count: int) -> np.ndarray:
    """Return at most `MOST_ROWS` of the indices below `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_ROWS)).astype(np.int64))


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float32)


def _as_json(answer: Any) -> str:
    if isinstance(answer, str):
        answer = answer[:_MOST_CHARACTERS]
    return json.dumps(answer, ensure_ascii=False, default=str)
