"""Limits the bodies of requests: each body, and all bodies that a replica holds at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

_RETRY_AFTER_S = 5


class Bodies:
    """Limits one kind of request: `each` body, and all of them `together`, in bytes."""

    def __init__(self, each: int, together: int) -> None:
        self._each, self._together = each, together
        self._held = 0

    @contextmanager
    def limited(self, scope: Scope, receive: Receive) -> Iterator[Receive]:
        """Wrap `receive`. The wrapper raises an HTTP error 413 where a body or its announced length
        exceeds the limit, and 503 where all bodies together exceed theirs. The body counts until
        the block ends."""
        announced = dict(scope["headers"]).get(b"content-length", b"")
        size_told = int(announced) if announced.isdigit() else 0
        received = 0

        def check(size: int) -> None:
            if size > self._each:
                limit = f"{self._each:,} bytes a request is the limit"
                raise HTTPException(413, f"the body is too long: {limit}")

        async def limited() -> Message:
            nonlocal received
            check(size_told)  # a client that announces too much may never send the body
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held += size
            check(received)
            if self._held > self._together:
                raise _too_much()
            return message

        try:
            yield limited
        finally:
            self._held -= received


def _too_much() -> HTTPException:
    message = f"too much is being uploaded; try again in {_RETRY_AFTER_S} s"
    return HTTPException(503, message, {"retry-after": str(_RETRY_AFTER_S)})
