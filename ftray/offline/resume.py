"""Keeps the answers of a prediction run beside its output file until the run has written the file.

A killed run leaves its parts, and the same command continues from them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import ArrowInvalid

from ftray import digest
from ftray.errors import DataError
from ftray.models.artifact.manifest import ModelInfo
from ftray.spec.sections.compute import Compute
from ftray.store.files.location import Location
from ftray.tasks.base import Question, digest_of

_KEY = "key"
COLUMNS = "columns"
SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        COLUMNS: pa.string(),
        "probabilities": pa.list_(pa.float64()),
        "cut": pa.bool_(),
    }
)
"""Columns of the answers. `COLUMNS`: the columns that prediction adds to the row, in JSON; null
where the row gives the model nothing to read; probabilities: of all labels, null where the run does
not ask for them; cut: whether the row was longer than the model reads."""


class Parts:
    """The answers of a run by row number, in the hidden folder `.NAME.parts` beside the output."""

    def __init__(self, out: Location, key: str) -> None:
        """key: the `run_key` of the run. Parts in the folder with another key belong to another
        run; the first `add` of this run deletes them."""
        self._folder = out.parent / f".{out.name}.parts"
        self._out = out
        self._key = key

    @property
    def _are_ours(self) -> bool:
        file = self._folder / _KEY
        return file.is_file() and file.read_bytes() == self._key.encode()

    def read(self) -> pa.Table:
        """Read all answered rows, each once, with the columns of SCHEMA."""
        found: dict[int, dict[str, Any]] = {}
        files = self._folder.children() if self._are_ours else []
        for file in files:
            if not file.name.endswith(".arrow"):
                continue
            try:
                with pa.ipc.open_file(pa.BufferReader(file.read_bytes())) as reader:
                    part = reader.read_all()
            except ArrowInvalid:
                continue  # cut off by the kill, on a storage that does not write files atomically
            if part.schema.names == SCHEMA.names:  # else an older ftray has written the part
                found.update((answer["row"], answer) for answer in part.to_pylist())
        return pa.Table.from_pylist([found[row] for row in sorted(found)], SCHEMA)

    def add(self, answers: pa.Table) -> None:
        """Write `answers` as one more part. Raises DataError where the part cannot be written."""
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


def run_key(
    info: ModelInfo, compute: Compute, questions: Sequence[Question], probabilities: bool = False
) -> str:
    """Return a hash of the model, the compute settings, `probabilities` and the questions. Two runs
    with the same key give the same answers, and may share parts."""

    def chunks() -> Iterable[bytes]:
        yield info.model_dump_json().encode()
        yield f"{compute} {probabilities}".encode()
        for question in questions:
            content = digest_of(question)
            yield len(content).to_bytes(8, "little")
            yield content

    return digest.of_chunks(chunks())
