"""The models that a replica serves, and those of them that it holds: the last used ones."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from ftray.errors import FtrayError
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import Answers, Generation, Unavailable, version_number
from ftray.serve.models.backoff import Backoff
from ftray.serve.models.loader import Live
from ftray.serve.models.slots import Slots
from ftray.serve.models.versions import VersionRouter
from ftray.serve.ops.log import logger
from ftray.serve.runners.batcher import Overloaded, TooLate
from ftray.serve.settings import ServedModel

_log = logger(__name__)

Start = Callable[[ServedModel, Slots], VersionRouter]
"""Loads what is to be served, in slots. Raises ModelError when it does not prove itself."""
_LOADERS = 4
_RETRY_AFTER_S = 5


class ModelCache:
    """At most `most` models are loaded at once; who is asked for another one waits until the least
    recently used one has gone and that one is loaded, for `wait_s` at most."""

    def __init__(
        self, served: Sequence[ServedModel], start: Start, most: int, wait_s: float
    ) -> None:
        """Loads as many as may be held. Raises as `start`."""
        self._start, self._wait_s = start, wait_s
        self.entries = tuple(Entry(model, self) for model in served)
        self._held: OrderedDict[str, VersionRouter] = OrderedDict()  # by use, the latest one last
        self._loading: dict[str, asyncio.Task[VersionRouter]] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        self._slots = Slots(most, wait_s, self._let_go)
        self._failed = Backoff()
        for model in served[:most]:
            self._held[model.address] = start(model, self._slots)

    def find(self, name: str, version: str | None = None) -> Entry | None:
        """By its name, or by its address where several versions of one model are served."""
        for entry in self.entries:
            if name in (entry.name, entry.address) and version in (None, version_number(entry)):
                return entry
        return None

    def held(self, model: ServedModel) -> VersionRouter | None:
        return self._held.get(model.address)

    @property
    def current(self) -> list[Live]:
        """List the version that answers of each model that is held."""
        return [shelf.current for shelf in self._held.values()]

    async def shelf(self, model: ServedModel) -> VersionRouter:
        """Return the model's shelf, loaded if need be, and mark it as used last. Raises
        Unavailable, Overloaded."""
        address = model.address
        if (shelf := self._held.get(address)) is not None:
            with suppress(KeyError):  # let go by another thread since
                self._held.move_to_end(address)
            return shelf
        if pause := self._failed.left_s(address):
            raise _unavailable(model, pause)
        if address not in self._loading:
            task = asyncio.get_running_loop().create_task(self._load(model))
            self._loading[address] = task
            task.add_done_callback(lambda _: self._loading.pop(address))
        try:
            async with asyncio.timeout(self._wait_s) as limit:
                # Others may wait for it too when this caller goes away.
                return await asyncio.shield(self._loading[address])
        except TimeoutError:
            if not limit.expired():
                raise
            raise TooLate(f"{address} is being loaded", _RETRY_AFTER_S) from None

    async def _load(self, model: ServedModel) -> VersionRouter:
        loop, address = asyncio.get_running_loop(), model.address
        try:
            shelf = await loop.run_in_executor(self._loaders, self._start, model, self._slots)
        except Overloaded:
            raise
        except Exception as error:  # noqa: BLE001 - logged, and told to all who ask
            self._failed.again(address)
            _log.error("%s cannot be loaded: %s", address, error, exc_info=_unforeseen(error))
            raise _unavailable(model, self._failed.left_s(address)) from None
        self._failed.forget(address)
        self._held[address] = shelf
        return shelf

    def _let_go(self, but: str) -> str | None:
        """Let go of the least recently used model other than `but`, and return its address."""
        for address in list(self._held):
            if address != but and (shelf := self._held.pop(address, None)) is not None:
                shelf.close()
                return address
        return None


def _unavailable(model: ServedModel, pause_s: float) -> Unavailable:
    return Unavailable(f"{model.address} cannot be loaded", math.ceil(pause_s))


def _unforeseen(error: Exception) -> Exception | None:
    return None if isinstance(error, FtrayError) else error


@dataclass(frozen=True)
class Entry:
    """One served model, held or not: a `Backend`."""

    model: ServedModel
    catalog: ModelCache

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def address(self) -> str:
        return self.model.address

    @property
    def version(self) -> int | None:
        shelf = self.catalog.held(self.model)
        return self.model.version if shelf is None else shelf.current.version

    @property
    def info(self) -> ModelInfo:
        shelf = self.catalog.held(self.model)
        return self.model.info if shelf is None else shelf.current.info

    @property
    def fault(self) -> str:
        shelf = self.catalog.held(self.model)
        return "" if shelf is None else shelf.current.fault

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        return await (await self.catalog.shelf(self.model)).generate(prompt, sampling)

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        return await (await self.catalog.shelf(self.model)).answer(texts, top_k)
