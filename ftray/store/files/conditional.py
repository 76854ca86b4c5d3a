"""Conditional writes to object stores: S3, Google Cloud Storage and Azure.

pyarrow, which does all other input and output, has no conditional writes. The client here is
obstore's. It gets the same options from the URL as pyarrow does, and finds credentials in the same
environment.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pyarrow.fs as pafs

from ftray.errors import StorageError, shorten
from ftray.store.files.location import Location

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

_LEAST_PATIENCE_S = 6.0
"""Least number of seconds for which a client retries a silent store, the same as pyarrow's."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_BACKOFF: dict[str, Any] = {
    "init_backoff": timedelta(seconds=_FIRST_PAUSE_S),
    "max_backoff": timedelta(seconds=_LONGEST_PAUSE_S),
    "base": 2,
}
_CLIENT: dict[str, Any] = {"allow_http": True, "timeout": timedelta(seconds=20)}
# Variables that hold credentials; where one is set, no other source is asked for them.
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True)
class Version:
    """One reading of a file: its content, None where there is no file, and the store's tag for
    it."""

    content: bytes | None
    tag: tuple[tuple[str, str], ...] = ()


class StoredDocument:
    """A document in an object store: see `ftray.store.files.document.Document`."""

    def __init__(self, location: Location, reads: ObjectStore, writes: ObjectStore) -> None:
        self._location, self._reads, self._writes = location, reads, writes
        self._key = location.path.partition("/")[2]

    def read(self) -> Version:
        import obstore

        try:
            found = obstore.get(self._reads, self._key)
            return Version(bytes(found.bytes()), _tag(found.meta))
        except FileNotFoundError:
            return Version(None)
        except obstore.exceptions.BaseError as error:
            raise self._unusable("read", error) from None

    def write(self, content: bytes, after: Version) -> Version | None:
        import obstore
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            GenericError,
            PreconditionError,
        )

        update: UpdateVersion = dict(after.tag)  # type: ignore[assignment]
        mode: Any = "create" if after.content is None else update
        pauses, asked = _pauses(_patience(self._location)), False
        while True:
            try:
                written = obstore.put(self._writes, self._key, content, mode=mode)
                return Version(content, _tag(written))
            except (AlreadyExistsError, PreconditionError):
                # The store may hold this very content where it lost its answer to an earlier
                # attempt.
                now = self.read() if asked else None
                return now if now is not None and now.content == content else None
            except GenericError as error:
                pause, asked = next(pauses, None), True
                if pause is None:
                    raise self._unusable("written", error) from None
                time.sleep(pause)
            except BaseError as error:
                raise self._unusable("written", error) from None

    def _unusable(self, verb: str, error: Exception) -> StorageError:
        reason = shorten(str(error).splitlines()[0], 200)
        fix = "restore access; the storage must take conditional writes (If-Match)"
        return StorageError.of(self._location.url, None, f"cannot be {verb}: {reason}", fix)


def stored_document(location: Location) -> StoredDocument | None:
    """Open the document at `location`; None where the file system is no object store."""
    split = urlsplit(location.url)
    region = location.fs.region if isinstance(location.fs, pafs.S3FileSystem) else ""
    reads = _open(split.scheme, split.netloc, split.query, region, _patience(location))
    # No retries by the client: the store would refuse the retry because the first attempt wrote.
    writes = _open(split.scheme, split.netloc, split.query, region, 0.0)
    return StoredDocument(location, reads, writes) if reads and writes else None


@lru_cache(maxsize=16)
def _open(scheme: str, netloc: str, query: str, region: str, patience: float) -> ObjectStore | None:
    url = SplitResult(scheme, netloc, "", query, "")
    retry = {
        "max_retries": 100 if patience else 0,
        "retry_timeout": timedelta(seconds=patience),
        "backoff": _BACKOFF,
    }
    client: dict[str, Any] = {"client_options": _CLIENT, "retry_config": retry}
    if scheme == "s3":
        return _s3(url, region, client)
    if scheme in ("gs", "gcs"):
        from obstore.store import GCSStore

        return GCSStore(url.hostname, **client)
    if scheme in ("abfs", "abfss"):
        return _azure(url, client)
    return None


def _s3(url: SplitResult, region: str, client: dict[str, Any]) -> ObjectStore:
    from obstore.store import S3Store

    options = {key: values[-1] for key, values in parse_qs(url.query).items()}
    config: dict[str, Any] = {"region": region} if region else {}
    if endpoint := options.get("endpoint_override"):
        scheme = options.get("scheme", "https")
        config["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    if url.username:
        config["access_key_id"] = unquote(url.username)
        config["secret_access_key"] = unquote(url.password or "")
    elif not any(os.environ.get(name) for name in _CREDENTIALS):
        config["credential_provider"] = _profile()
    bucket = url.netloc.rpartition("@")[2]
    return S3Store(bucket, **client, **config)


def _profile() -> Any:
    """Take credentials from ~/.aws where boto3 is installed to read them; else None, which means
    the machine's role."""
    if importlib.util.find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except ValueError:  # no credentials anywhere
        return None


def _azure(url: SplitResult, client: dict[str, Any]) -> ObjectStore:
    from obstore.store import from_url

    host, config = url.hostname or "", client.copy()
    if host.endswith(".core.windows.net"):  # abfs://CONTAINER@ACCOUNT.dfs.core.windows.net
        return from_url(f"abfs://{url.username or ''}@{host}", **config)
    given = {"account_name": url.username, "account_key": url.password}
    config |= {key: unquote(value) for key, value in given.items() if value}
    return from_url(f"abfs://{host}", **config)  # abfs://ACCOUNT:KEY@CONTAINER


def _patience(location: Location) -> float:
    return max(location.patience, _LEAST_PATIENCE_S)


def _pauses(patience: float) -> Iterator[float]:
    """Yield the seconds to wait between attempts, until the patience is spent."""
    until, pause = time.monotonic() + patience, _FIRST_PAUSE_S
    while time.monotonic() < until:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _tag(meta: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, meta[key]) for key in ("e_tag", "version") if meta.get(key) is not None)
