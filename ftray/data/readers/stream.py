"""Reads the text of a file line by line: decompresses it, up to a plausible compression ratio, and
decodes it."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from ftray.data.readers.rows import Source, shown
from ftray.errors import DataError, FtrayError
from ftray.store.files.location import Location

_MIB = 2**20
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""File name ending -> compression codec."""
_MOST_TIMES = 100
"""Most bytes that one byte of a file may decompress to: text compresses to a tenth, repeated text
to a fiftieth."""
LEAST_TEXT, LEAST_COLUMNS = 8 * _MIB, 256 * _MIB
"""Bytes that any file may decompress to, whatever its ratio."""
_LONGEST_LINE = 256 * _MIB
_HEAD = 4096
_BUFFER = _MIB
_UTF16_OR_32 = ("utf-16", "utf-32")
# UTF-32 comes first: its byte order mark begins with the mark of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY = {
    b"PK\x03\x04": "a ZIP archive, as Excel's files are",
    b"\x1f\x8b": "a gzip file, whose name has to end in .gz",
    b"PAR1": "a Parquet file, whose name has to end in .parquet",
    b"ARROW1": "an Arrow file, whose name has to end in .arrow",
    b"%PDF": "a PDF file",
    b"\xd0\xcf\x11\xe0": "a file of an old Excel",
}
_FIRST = 64
"""First bytes of a file in which zero bytes are counted: a header or a key in ASCII letters shows
the encoding there."""
_NULS = 0.1
"""Share of zero bytes among the first bytes above which a text has two or four bytes for each
character."""


class Guard:
    """Counts the decompressed bytes of a file, and limits them.

    least: decompressed bytes that any file may have; packed: returns the compressed bytes that were
    read so far
    """

    def __init__(
        self, file: Location, source: Source, least: int, packed: Callable[[], int]
    ) -> None:
        self._file, self._source = file, source
        self._least, self._packed = least, packed
        self._unpacked = 0

    def count(self, unpacked: int) -> None:
        """Add decompressed bytes. Raises DataError once they are too many."""
        self._unpacked += unpacked
        if self._unpacked < self._least:
            return
        packed = self._packed()
        if self._unpacked > _MOST_TIMES * packed:
            raise self._source.error(
                f"{packed:,} bytes of {shown(self._file)} hold {self._unpacked:,} bytes of data: "
                f"more than {_MOST_TIMES} times as many",
                "check what the file is, and unpack it if that is what you mean to read",
            )


class _Guarded(io.RawIOBase):
    """A stream whose bytes a guard counts."""

    def __init__(self, stream: Any, guard: Guard) -> None:
        self._stream, self._guard = stream, guard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content: bytes = self._stream.read(len(buffer))
        self._guard.count(len(content))
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def _opened(file: Location, source: Source) -> Iterator[io.BufferedReader]:
    packed_by = CODECS.get(PurePosixPath(file.name.lower()).suffix)
    if packed_by is None:
        with file.fs.open_input_stream(file.path, compression=None) as stream:
            yield io.BufferedReader(stream, _BUFFER)
        return
    with file.fs.open_input_file(file.path) as stream:
        unpacked = pa.CompressedInputStream(stream, packed_by)
        guard = Guard(file, source, LEAST_TEXT, stream.tell)
        yield io.BufferedReader(_Guarded(unpacked, guard), _BUFFER)


def read_bytes(file: Location, source: Source) -> bytes:
    """Return the decompressed content of a file. Raises DataError where it is far too large."""
    with _opened(file, source) as stream:
        return stream.read()


def lines(file: Location, source: Source) -> Iterator[str]:
    """Yield the lines of a file with their ends: line feed, carriage return or both.

    Bytes that do not fit the encoding become lone surrogates, which cleaning finds row by row.
    Raises DataError where the encoding is unknown, or the file is plainly in another one.
    """
    with _opened(file, source) as stream:
        encoding = _encoding(stream.peek(_HEAD)[:_HEAD], file, source)
        try:
            text = io.TextIOWrapper(stream, encoding, "surrogateescape", newline="")
            while line := text.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise source.error(
                        f"{shown(file)} has a line of more than {_LONGEST_LINE:,} characters",
                        "check what the file is",
                    )
                yield line
        except UnicodeError as error:
            raise _unfit(error, file, source) from None


def decode(raw: bytes, file: Location, source: Source) -> str:
    """Decode the text in `raw`, as `lines` does. Raises DataError."""
    encoding = _encoding(raw[:_HEAD], file, source)
    try:
        return raw.decode(encoding, "surrogateescape")
    except UnicodeError as error:
        raise _unfit(error, file, source) from None


def codec(source: Source) -> str:
    """Return Python's name of the source's encoding. Raises DataError where Python has none."""
    try:
        encoding = codecs.lookup(source.encoding).name
        " ".encode(encoding)  # raises LookupError for codecs that are not text encodings: base64
    except LookupError:
        raise DataError.of(
            "data.encoding",
            source.encoding,
            "no such text encoding",
            "name one that Python knows, for example utf-8, latin-1, cp1252 or utf-16",
        ) from None
    return encoding


def _encoding(head: bytes, file: Location, source: Source) -> str:
    """Return the codec that decodes a file whose first bytes are `head`."""
    encoding = codec(source)
    if not encoding.startswith(_UTF16_OR_32):
        _refuse_other(head, encoding, file, source)
    # Remove a byte order mark, which would otherwise become part of the first column's name.
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _refuse_other(head: bytes, encoding: str, file: Location, source: Source) -> None:
    """Raise DataError for a binary file, and for a text in UTF-16 or UTF-32."""
    name = shown(file)
    for start, what in _BINARY.items():
        if head.startswith(start):
            raise source.error(f"{name} is {what}", "name a file with text, or Parquet or Arrow")
    for mark, other in _MARKS.items():
        if head.startswith(mark):
            problem = f"{name} starts with the mark of {other.upper()}"
            raise DataError.of(
                "data.encoding", source.encoding, problem, f"set data.encoding: {other}"
            )
    head = head[:_FIRST]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd > _NULS * len(head):
        # In UTF-16, ASCII letters have their zero bytes all at even or all at odd positions.
        wide = _wide(head, even, odd)
        raise DataError.of(
            "data.encoding",
            source.encoding,
            f"{name} is no {encoding}: {even + odd} of its first {len(head)} bytes are zero",
            f"set data.encoding: {wide}" if wide else "check what the file is",
        )


def _wide(head: bytes, even: int, odd: int) -> str | None:
    """Guess the encoding of `head` among those with two or four bytes for each character."""
    if even + odd > len(head) * 0.6:
        return "utf-32-le" if head[3::4].count(0) > head[::4].count(0) else "utf-32-be"
    if min(even, odd) * 3 < max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _unfit(error: UnicodeError, file: Location, source: Source) -> FtrayError:
    return DataError.of(
        "data.encoding",
        source.encoding,
        f"{shown(file)} cannot be read with it: {error}",
        "set data.encoding to the encoding the file was written in",
    )
