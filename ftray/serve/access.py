"""Who may ask: API keys, of which a file holds the hashes.

A line a key: its name and the SHA-256 of the key, which is long and random, so that a plain hash is
enough. The key itself is shown once, when it is made, and kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time

from ftray.errors import ServeError
from ftray.serve.log import logger
from ftray.store.location import Location

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LINE = re.compile(rf"({NAME.pattern}) sha256:([0-9a-f]{{64}})")
_PREFIX = "ftray-"  # so that scanners for secrets can tell what they have found
_FRESH_S = 5.0
_log = logger(__name__)


def read_keys(file: Location) -> dict[str, str]:
    """Name -> hash. Raises ServeError when the file is missing or holds anything else."""
    if not file.is_file():
        raise ServeError.of(
            "serve.api_keys", file.url, "no such file", "make a key with `ftray keys add NAME`"
        )
    keys = {}
    for number, line in enumerate(file.read_bytes().decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            problem = f"line {number} is no name with the hash of a key"
            raise ServeError.of(
                "serve.api_keys", file.url, problem, "NAME sha256:HEX, or delete it"
            )
        keys[found[1]] = found[2]
    return keys


def add_key(file: Location, name: str) -> str:
    """Make a key of that name and return it. Raises ServeError for a wrong or taken name."""
    if not NAME.fullmatch(name):
        fix = "letters, digits, dot, dash and underscore, up to 63"
        raise ServeError.of("NAME", name, "is no name for a key", fix)
    keys = read_keys(file) if file.exists() else {}
    if name in keys:
        fix = "another name, or `ftray keys revoke` it first"
        raise ServeError.of("NAME", name, f"{file.url} has a key of that name", fix)
    key = _PREFIX + secrets.token_urlsafe(32)
    _write(file, {**keys, name: _hash(key)})
    return key


def revoke_key(file: Location, name: str) -> None:
    """Raises ServeError when there is no such key."""
    keys = read_keys(file)
    if name not in keys:
        known = ", ".join(sorted(keys)) or "none"
        raise ServeError.of("NAME", name, f"{file.url} has no such key", f"there are: {known}")
    _write(file, {known: hash_ for known, hash_ in keys.items() if known != name})


class Keyring:
    """The keys of a file, as it is now or was a few seconds ago."""

    def __init__(self, file: Location) -> None:
        """Raises ServeError as `read_keys`."""
        self._file = file
        self._hashes = list(read_keys(file).values())
        self._read = time.monotonic()

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header holds one of the keys."""
        self._refresh()
        scheme, _, key = authorization.partition(" ")
        found = _hash(key.strip())
        # All of them, so that the time it takes says nothing.
        matches = [hmac.compare_digest(found, known) for known in self._hashes]
        return scheme.lower() == "bearer" and any(matches)

    def _refresh(self) -> None:
        if time.monotonic() - self._read < _FRESH_S:
            return
        self._read = time.monotonic()
        try:
            self._hashes = list(read_keys(self._file).values())
        except (ServeError, OSError) as error:
            # A file that is gone or torn, or a storage that does not answer, revokes nothing by
            # accident, and admits nobody new.
            _log.warning("the API keys stay as they were: %s", error)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()


def _write(file: Location, keys: dict[str, str]) -> None:
    file.write_text("".join(f"{name} sha256:{hash_}\n" for name, hash_ in keys.items()))
