"""Where an application is to be reached."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.errors import ServeError

HOST, PORT = "127.0.0.1", 8000
"""Where a Serve that is started listens unless it is told."""


@dataclass(frozen=True)
class Place:
    """host, port: None: as Serve listens already, else HOST and PORT."""

    host: str | None = None
    port: int | None = None
    prefix: str = "/"

    def __post_init__(self) -> None:
        """Raises ServeError for a prefix that is none."""
        bare = self.prefix.strip("/")
        if self.prefix != f"/{bare}":
            fix = f"it begins with a slash and does not end with one: /{bare}"
            raise ServeError.of("--route-prefix", self.prefix, "is no route prefix", fix)
