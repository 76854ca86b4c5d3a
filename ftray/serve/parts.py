"""What a prediction run has answered so far, kept beside its output until that is written.

A run that was killed leaves its parts, and the same command goes on from them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyarrow import ArrowInvalid

from ftray import digest
from ftray.errors import DataError
from ftray.models.folder import ModelInfo
from ftray.spec.compute import Compute
from ftray.store.location import Location

_KEY = "key"
COLUMNS = ("row", "prediction", "score", "cut")
"""prediction, score: null where the row gives the model no token; cut: whether it was longer than
the model reads."""


class Parts:
    """Answers by the number of their row, in the hidden folder `.NAME.parts` beside the output."""

    def __init__(self, out: Location, key: str) -> None:
        """Parts of another key are of another run, and go with the first answers of this one."""
        self._folder = out.parent / f".{out.name}.parts"
        self._out = out
        self._key = key

    @property
    def _are_ours(self) -> bool:
        file = self._folder / _KEY
        return file.is_file() and file.read_bytes() == self._key.encode()

    def read(self) -> pa.Table:
        """COLUMNS of all rows that were answered, each once."""
        found: dict[int, tuple[str | None, float | None, bool]] = {}
        files = self._folder.children() if self._are_ours else []
        for file in files:
            if not file.name.endswith(".arrow"):
                continue
            try:
                with pa.ipc.open_file(pa.BufferReader(file.read_bytes())) as reader:
                    part = reader.read_all()
            except ArrowInvalid:
                continue  # torn by the kill, on a storage that does not write whole files
            if not set(COLUMNS) <= set(part.column_names):
                continue  # kept by an older ftray
            columns = (part[name].to_pylist() for name in COLUMNS)
            found.update((row, tuple(answer)) for row, *answer in zip(*columns, strict=True))
        rows = sorted(found)
        answers = ([found[row][place] for row in rows] for place in range(len(COLUMNS) - 1))
        types = (pa.int64(), pa.string(), pa.float64(), pa.bool_())
        arrays = [pa.array(v, t) for v, t in zip((rows, *answers), types, strict=True)]
        return pa.table(arrays, names=list(COLUMNS))

    def add(self, answers: pa.Table) -> None:
        """Raises DataError where it cannot be written."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, answers.schema) as writer:
            writer.write_table(answers)
        try:
            if not self._are_ours:
                self._folder.delete()
                (self._folder / _KEY).write_text(self._key)
            name = f"{uuid.uuid4().hex[:12]}.arrow"
            (self._folder / name).write_bytes(sink.getvalue().to_pybytes())
        except OSError as error:
            problem, fix = (
                f"nothing can be kept beside it: {error}",
                "free space, or name another file",
            )
            raise DataError.of("--out", self._out.url, problem, fix) from None

    def delete(self) -> None:
        self._folder.delete()


def run_key(info: ModelInfo, compute: Compute, texts: Sequence[str]) -> str:
    """What two runs share that answer the same rows by the same model."""

    def chunks() -> Iterable[bytes]:
        yield info.model_dump_json().encode()
        yield str(compute).encode()
        for text in texts:
            content = text.encode("utf-8", "surrogatepass")
            yield len(content).to_bytes(8, "little")
            yield content

    return digest.of_chunks(chunks())
