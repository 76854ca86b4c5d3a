"""Checks API keys of a running service: their scopes and quotas."""

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
    """Name of the request's key, or the refusal."""

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
    """Requests that a key may still send: a minute's at once, and as many again within a minute."""

    left: float
    at: float

    def wait(self, per_minute: int, now: float) -> float:
        """Take one; seconds until there is one, where there is none."""
        rate = per_minute / 60
        self.left, self.at = min(per_minute, self.left + (now - self.at) * rate), now
        if self.left < 1:
            return (1 - self.left) / rate
        self.left -= 1
        return 0.0


class Keyring:
    """The keys of a file, as it is now or was a few seconds ago."""

    def __init__(self, file: Location) -> None:
        """Raises ServeError as `read_keys`."""
        self._file = file
        self._keys = read_keys(file)
        self._buckets: dict[str, _Bucket] = {}

    def follow(self) -> None:
        """Look at the file every few seconds, in a thread of its own: the storage may hang."""
        threading.Thread(target=self._follow, name="keys", daemon=True).start()

    def judge(self, authorization: str, scope: str) -> Verdict:
        """Judge a request by its Authorization header and the `scope` that it needs."""
        kind, _, key = authorization.partition(" ")
        found, name = hash_of(key.strip()), ""
        # All of them, so that the time it takes says nothing.
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
        """Read the file again. One that is gone revokes all keys; one that is torn, or cannot be
        read just now, leaves them as they are."""
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
            except Exception:  # noqa: BLE001 - the thread must not end: revoked keys would stay
                _log.exception("the API keys stay as they were")
