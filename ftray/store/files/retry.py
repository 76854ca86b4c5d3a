"""Retries on a storage: tells transient faults from final ones and waits between attempts.

pyarrow's S3 client retries each request for about 6 s, which bridges a lost connection. An outage
takes longer, so a training run retries its reads and writes for minutes.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from ftray.errors import StorageFault, shorten, without_passwords

R = TypeVar("R")

log = logging.getLogger(__name__)

QUICK = 0.0
"""Patience in seconds of commands that a person waits for: only pyarrow's own 6 s."""
PATIENT = 180.0
"""Patience in seconds of a run, as an outage must not end a run."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0

# The names that the AWS SDK, Google's and Azure's clients and the operating system give to
# transient faults in pyarrow's messages. Every other fault is final: 403, 404, a missing bucket, a
# wrong region.
_TRANSIENT = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING"
    r"|REQUEST_TIMEOUT)|HTTP status (408|429|5\d\d)|\b(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)\b"
    r"|connection (was )?(reset|refused|closed|timed out)|timed out|temporarily unavailable",
    re.IGNORECASE,
)
_FINAL = re.compile(r"curlCode: (51|58|60|77)\b")  # invalid certificates
_TRANSIENT_ERRNOS = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MEANINGS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""Errors that callers catch by their class and that are no fault of the storage."""


class Attempts:
    """The attempts at one action on a storage, until it succeeds or until `patience` seconds have
    passed since the first of a series of failures."""

    def __init__(self, url: str, patience: float) -> None:
        self._url, self._patience = without_passwords(url), patience
        self._since: float | None = None
        self._pause = _FIRST_PAUSE

    def failed(self, error: OSError) -> None:
        """Wait before the next attempt, or raise where no attempt is left: `error` itself where its
        class says what it is (such as no such file), else a StorageFault."""
        now = time.monotonic()
        first = self._since is None
        self._since = now if self._since is None else self._since
        over = now - self._since + self._pause > self._patience
        if over or not is_transient(error):
            raise fault(error, self._url) from None
        if first:
            log.warning(
                "%s: %s. It is tried again for up to %g s.",
                self._url,
                reason(error),
                self._patience,
            )
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def progressed(self) -> None:
        """Note that an attempt succeeded: the next failure begins a new series."""
        if self._since is not None:
            log.warning("%s: answers again.", self._url)
        self._since, self._pause = None, _FIRST_PAUSE


def persist(action: Callable[[], R], url: str, patience: float) -> R:
    """Call `action` until it succeeds, and return its result. A second call of `action` must do no
    harm.

    Raises as `Attempts.failed`.
    """
    attempts = Attempts(url, patience)
    while True:
        try:
            result = action()
        except OSError as error:
            attempts.failed(error)
        else:
            attempts.progressed()
            return result


def is_transient(error: OSError) -> bool:
    """Return whether the same request may succeed later without a change by the user."""
    if isinstance(error, (*_MEANINGS, PermissionError)):
        return False
    if isinstance(error, StorageFault):
        return error.transient
    if error.errno in _TRANSIENT_ERRNOS or isinstance(error, TimeoutError):
        return True
    text = str(error)
    return _TRANSIENT.search(text) is not None and _FINAL.search(text) is None


def fault(error: OSError, url: str) -> OSError:
    """Turn `error` into a StorageFault for the user; return it as it is where its class says what
    it is."""
    if isinstance(error, (*_MEANINGS, StorageFault)):
        return error
    transient = is_transient(error)
    fix = "check the name and your access"
    if error.errno in _FULL:
        fix = "free space there; the same command then goes on"
    elif transient:
        fix = "see that the storage can be reached; the same command then goes on"
    found = StorageFault.of(url, None, reason(error), fix)
    found.transient = transient
    return found


def reason(error: OSError) -> str:
    """Name the reason in a few words: pyarrow's text has the request, the key and a client's
    code."""
    if isinstance(error, StorageFault):
        return error.problems[0].problem
    text = str(error)
    if curl := re.search(r"curlCode: \d+, ([^;]+)", text):
        return curl[1].strip()
    if aws := re.search(r"AWS Error (\w+)(?: \((HTTP status \d+)\))? during [^:]*: (.*)", text):
        name, status, message = aws.groups()
        message = message.partition(" (Request ID")[0].strip()
        said = "" if message == "No response body." else f": {message}"
        return shorten((status or name.replace("_", " ").lower()) + said, 200)
    return error.strerror or shorten(text, 200)
