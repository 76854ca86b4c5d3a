"""The text of a file, line by line: unpacked only as far as a text may be packed, and decoded."""

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
"""Ending of a file's name -> how it is packed."""
_MOST_TIMES = 100
"""How many bytes one byte of a file may become: text packs to a tenth, repeated text to a
fiftieth."""
LEAST_TEXT, LEAST_COLUMNS = 8 * _MIB, 256 * _MIB
"""Bytes that any file may become."""
_LONGEST_LINE = 256 * _MIB
_HEAD = 4096
_BUFFER = _MIB
_UTF16_OR_32 = ("utf-16", "utf-32")
# The UTF-32 mark begins with the one of UTF-16.
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
"""Bytes in which a header or a key in plain letters shows what the encoding is."""
_NULS = 0.1
"""Share of zero bytes among them above which a text is in two or four bytes a character."""


class Guard:
    """Bytes that a file has become in memory, and how many it may become.

    least: that any file may; packed: tells the bytes of the file that have become them
    """

    def __init__(
        self, file: Location, source: Source, least: int, packed: Callable[[], int]
    ) -> None:
        self._file, self._source = file, source
        self._least, self._packed = least, packed
        self._unpacked = 0

    def count(self, unpacked: int) -> None:
        """Raises DataError once that is too much."""
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
    """What is read of a stream, counted by a guard."""

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
    """The content of a file, unpacked. Raises DataError where it unpacks to far too much."""
    with _opened(file, source) as stream:
        return stream.read()


def lines(file: Location, source: Source) -> Iterator[str]:
    """The lines of a file with their ends: line feed, carriage return or both.

    Bytes that do not fit the encoding become lone surrogates, which cleaning finds row by row.
    Raises DataError where the encoding is unknown or plainly another one.
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
    """The text in `raw`, as `lines` decodes it. Raises DataError."""
    encoding = _encoding(raw[:_HEAD], file, source)
    try:
        return raw.decode(encoding, "surrogateescape")
    except UnicodeError as error:
        raise _unfit(error, file, source) from None


def codec(source: Source) -> str:
    """The name of the source's encoding in Python. Raises DataError where there is none."""
    try:
        encoding = codecs.lookup(source.encoding).name
        " ".encode(encoding)  # some codecs are of no text: base64
    except LookupError:
        raise DataError.of(
            "data.encoding",
            source.encoding,
            "no such text encoding",
            "name one that Python knows, for example utf-8, latin-1, cp1252 or utf-16",
        ) from None
    return encoding


def _encoding(head: bytes, file: Location, source: Source) -> str:
    """The codec to decode a file with that begins with `head`."""
    encoding = codec(source)
    if not encoding.startswith(_UTF16_OR_32):
        _refuse_other(head, encoding, file, source)
    # A byte order mark is no part of the first column's name.
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _refuse_other(head: bytes, encoding: str, file: Location, source: Source) -> None:
    """Raise DataError for what is no text in one byte a character or more."""
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
        # Text of plain letters has its zero bytes on one side.
        wide = _wide(head, even, odd)
        raise DataError.of(
            "data.encoding",
            source.encoding,
            f"{name} is no {encoding}: {even + odd} of its first {len(head)} bytes are zero",
            f"set data.encoding: {wide}" if wide else "check what the file is",
        )


def _wide(head: bytes, even: int, odd: int) -> str | None:
    """The encoding of two or four bytes a character that `head` seems to be in."""
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
