"""An alias that replicas serve, and a thread that looks where it leads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ftray.errors import FtrayError
from ftray.serve.log import logger
from ftray.store.location import Location
from ftray.store.root import Root, open_root
from ftray.store.routes import Route, Stop, Trial, end_trial, read_route

_EVERY_S = 2.0
_log = logger(__name__)


@dataclass(frozen=True)
class Alias:
    """Of the model `name` below the storage root at `storage`."""

    storage: str
    name: str
    alias: str

    @property
    def root(self) -> Root:
        return open_root(self.storage)

    def route(self) -> Route | None:
        """Raises as `read_route`."""
        return read_route(self.root, self.name, self.alias)

    def folder(self, stop: Stop) -> Location:
        return self.root.location / stop.folder

    def end_trial(self, trial: Trial, why: str) -> None:
        """For all replicas. What cannot be written is logged: this replica has ended it anyway."""
        try:
            end_trial(self.root, self.name, self.alias, trial, why)
        except (FtrayError, OSError) as error:
            _log.warning("the other replicas are not told: %s", error)


def follow(alias: Alias, update: Callable[[Route], None], over: threading.Event) -> None:
    """Tell `update` where the alias leads, every few seconds until it is `over`."""
    threading.Thread(target=_follow, args=(alias.route, update, over), daemon=True).start()


def _follow(
    look: Callable[[], Route | None], update: Callable[[Route], None], over: threading.Event
) -> None:
    while not over.wait(_EVERY_S):
        try:
            if route := look():
                update(route)
        except Exception:  # noqa: BLE001 - a replica must not stop to follow
            # Such as a storage that does not answer: it changes nothing, and is asked again.
            _log.exception("the alias cannot be followed just now")
