"""Reads and changes the file with the hashes of the API keys.

Each key has one line: its name, its SHA-256, its scopes where it does not have all of them, and its
quota where it has one. A key is long and random, so that a plain hash is enough. `add_key` returns
a new key once; no file keeps the key itself. Empty lines and lines that begin with # are comments,
and stay as they are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ftray.errors import ServeError
from ftray.store.files.document import change, open_document
from ftray.store.files.location import Location

PREDICT, METRICS = "predict", "metrics"
SCOPES = (PREDICT, METRICS)
"""Scopes of a key: `predict` for requests to the models, `metrics` for the page of metrics."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LINE = re.compile(
    rf"(?P<name>{NAME.pattern}) sha256:(?P<hash>[0-9a-f]{{64}})"
    rf"(?: scopes=(?P<scopes>(?:{'|'.join(SCOPES)})(?:,(?:{'|'.join(SCOPES)}))*))?"
    r"(?: per_minute=(?P<per_minute>[1-9][0-9]{0,8}))?"
)
_PREFIX = "ftray-"  # tells scanners for secrets what kind of secret they have found


@dataclass(frozen=True)
class Key:
    hash: str
    scopes: frozenset[str] = frozenset(SCOPES)
    per_minute: int | None = None
    """Requests a minute that each replica accepts from the key; None: any number."""

    def line(self, name: str) -> str:
        scopes = "" if self.scopes == set(SCOPES) else f" scopes={','.join(sorted(self.scopes))}"
        quota = "" if self.per_minute is None else f" per_minute={self.per_minute}"
        return f"{name} sha256:{self.hash}{scopes}{quota}\n"


def read_keys(file: Location) -> dict[str, Key]:
    """Return name -> key. Raises ServeError for a file that is missing or holds anything else, and
    StorageError for a storage that does not answer."""
    keys = find_keys(file)
    if keys is None:
        fix = "make a key with `ftray keys add NAME`"
        raise ServeError.of("serve.api_keys", str(file), "no such file", fix)
    return keys


def find_keys(file: Location) -> dict[str, Key] | None:
    """Return name -> key, None for a file that is missing. Raises as `read_keys`."""
    content = open_document(file).read().content
    return None if content is None else _parsed(content, file)


def _parsed(content: bytes, file: Location) -> dict[str, Key]:
    keys = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if _is_comment(line):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            problem = f"line {number} is no name with the hash of a key"
            fix = "NAME sha256:HEX, or delete it"
            raise ServeError.of("serve.api_keys", str(file), problem, fix)
        scopes = frozenset((found["scopes"] or ",".join(SCOPES)).split(","))
        quota = int(found["per_minute"]) if found["per_minute"] else None
        keys[found["name"]] = Key(found["hash"], scopes, quota)
    return keys


def add_key(
    file: Location, name: str, scopes: Collection[str] = SCOPES, per_minute: int | None = None
) -> str:
    """Make a key with this name, and return the key. Raises ServeError for a wrong or taken
    name."""
    if not NAME.fullmatch(name):
        fix = "letters, digits, dot, dash and underscore, up to 63"
        raise ServeError.of("NAME", name, "is no name for a key", fix)
    key = _PREFIX + secrets.token_urlsafe(32)
    line = Key(hash_of(key), frozenset(scopes), per_minute).line(name)

    def add(content: bytes | None) -> bytes:
        if name in _parsed(content or b"", file):
            fix = "another name, or `ftray keys revoke` it first"
            raise ServeError.of("NAME", name, f"{file} has a key of that name", fix)
        lines = content or b""
        return lines + (b"" if not lines or lines.endswith(b"\n") else b"\n") + line.encode()

    _make_private(file)
    change(open_document(file), add)
    return key


def revoke_key(file: Location, name: str) -> None:
    """Delete a key from the file. Raises ServeError when there is no such key."""
    read_keys(file)

    def remove(content: bytes | None) -> bytes:
        keys = _parsed(content or b"", file)
        if name not in keys:
            known = ", ".join(sorted(keys)) or "none"
            raise ServeError.of("NAME", name, f"{file} has no such key", f"there are: {known}")
        lines = (content or b"").decode(errors="replace").splitlines(keepends=True)
        kept = (line for line in lines if _is_comment(line) or line.split()[0] != name)
        return "".join(kept).encode()

    _make_private(file)
    change(open_document(file), remove)


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _make_private(file: Location) -> None:
    """Restrict a local file to its owner (mode 0600), before a key is written. Raises
    ServeError."""
    if not file.is_local:
        return
    path = Path(file.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise ServeError.of("--file", str(file), problem, "name another file") from None
