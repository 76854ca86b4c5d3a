"""The class that Ray Serve builds and calls in a replica's process.

The process that deploys imports this file, and not `ftray.serve.replica`: the libraries with which
a replica computes take seconds to import, and only replicas need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve

from ftray.errors import FtrayError
from ftray.serve.ops.autoscaling import UTILIZATION
from ftray.serve.startup_errors import refusal

if TYPE_CHECKING:
    from fastapi import FastAPI


@serve.ingress()
class Hosted:
    """Wraps a `Replica` in the methods that Ray Serve calls."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take the arguments of Replica. When this constructor raises, Ray Serve sends the replica
        no traffic."""
        from ftray.serve.replica import Replica

        try:
            self._replica = Replica(*args, **options)
        except FtrayError as error:
            raise refusal(error) from error

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._replica.api()

    def __del__(self) -> None:
        """Ray Serve calls this method when the replica has answered its last request."""
        if hasattr(self, "_replica"):
            self._replica.withdraw()

    async def check_health(self) -> None:
        """Ray Serve calls this method every few seconds, and replaces the replica when three calls
        in a row raise."""
        await self._replica.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve calls this method every few seconds, and passes the result to
        `replicas_for_load`."""
        return {UTILIZATION: self._replica.utilization}

    def snapshot(self) -> Any:
        """Return the metrics of this replica."""
        return self._replica.snapshot()
