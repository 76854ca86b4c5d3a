"""Address, port and route prefix of an application."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.errors import ServeError

HOST, PORT = "127.0.0.1", 8000
"""Default address and port of a Ray Serve that `ftray serve` starts."""


@dataclass(frozen=True)
class Place:
    """host, port: None means those of a Ray Serve that runs already, else HOST and PORT."""

    host: str | None = None
    port: int | None = None
    prefix: str = "/"

    def __post_init__(self) -> None:
        """Raises ServeError for a malformed prefix."""
        bare = self.prefix.strip("/")
        if self.prefix != f"/{bare}":
            fix = f"it begins with a slash and does not end with one: /{bare}"
            raise ServeError.of("--route-prefix", self.prefix, "is no route prefix", fix)
