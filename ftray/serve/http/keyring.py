"""Checks the API keys of the requests to a running service: their scopes and quotas."""

from __future__ import annotations

import hmac
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ftray.errors import FtrayError
from ftray.serve.http.auth import Key, find_keys, hash_of, read_keys
from ftray.serve.ops.log import logger
from ftray.store.files.location import Location

_EVERY_S = 5.0
_log = logger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Result of checking a request's key: the key's name, and the refusal where the status is not
    200."""

    name: str = ""
    status: int = 200
    message: str = ""
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


_UNKNOWN = Verdict(
    status=401,
    message="no valid API key; send the header Authorization: Bearer KEY",
    code="invalid_api_key",
    headers={"www-authenticate": "Bearer"},
)


@dataclass
class _Bucket:
    """Token bucket of a key: holds the requests of one minute at most, and refills within a
    minute. left: requests that the key may send now, as of the time `at`."""

    left: float
    at: float

    def wait(self, per_minute: int, now: float) -> float:
        """Take one request from the bucket and return 0. Where the bucket is empty, return the
        seconds until it holds a request."""
        rate = per_minute / 60
        self.left, self.at = min(per_minute, self.left + (now - self.at) * rate), now
        if self.left < 1:
            return (1 - self.left) / rate
        self.left -= 1
        return 0.0


class Keyring:
    """The API keys of a file; at most a few seconds old while `follow` runs."""

    def __init__(self, file: Location) -> None:
        """Raises ServeError as `read_keys`."""
        self._file = file
        self._keys = read_keys(file)
        self._buckets: dict[str, _Bucket] = {}

    def follow(self) -> None:
        """Read the file every few seconds, in a thread of its own, as the storage may hang."""
        threading.Thread(target=self._follow, name="keys", daemon=True).start()

    def judge(self, authorization: str, scope: str) -> Verdict:
        """Judge a request by its Authorization header and the `scope` that it needs."""
        kind, _, key = authorization.partition(" ")
        found, name = hash_of(key.strip()), ""
        # Compare with all keys, so that the time of the check reveals nothing.
        for known, each in self._keys.items():
            if hmac.compare_digest(found, each.hash):
                name = known
        if kind.lower() != "bearer" or not name:
            return _UNKNOWN
        return self._allowed(name, self._keys[name], scope)

    def _allowed(self, name: str, key: Key, scope: str) -> Verdict:
        if scope not in key.scopes:
            message = f"the key {name} is for {' and '.join(sorted(key.scopes))}, not for {scope}"
            return Verdict(name, 403, message, "insufficient_scope")
        if key.per_minute is None:
            return Verdict(name)
        now = time.monotonic()
        bucket = self._buckets.setdefault(name, _Bucket(key.per_minute, now))
        if (wait := bucket.wait(key.per_minute, now)) == 0:
            return Verdict(name)
        message = f"the key {name} may ask {key.per_minute} times a minute"
        headers = {"retry-after": str(math.ceil(wait))}
        return Verdict(name, 429, message, "rate_limit_exceeded", headers)

    def refresh(self) -> None:
        """Read the file again. A missing file revokes all keys. A damaged file, or one that cannot
        be read now, leaves the keys as they are."""
        try:
            keys = find_keys(self._file)
        except FtrayError as error:
            _log.warning("the API keys stay as they were: %s", error)
            return
        if keys is None and self._keys:
            _log.warning("%s is gone: no key is valid any more", self._file)
        self._keys = keys or {}

    def _follow(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            try:
                self.refresh()
            except Exception:  # noqa: BLE001 - revoked keys would stay valid if the thread ended
                _log.exception("the API keys stay as they were")
