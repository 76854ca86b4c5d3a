"""The model cache of a replica: holds the most recently used of the models that it serves."""

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
from ftray.serve.interface import (
    Answers,
    Generation,
    Overloaded,
    TooLate,
    Unavailable,
    version_number,
)
from ftray.serve.models.backoff import Backoff
from ftray.serve.models.live import Live
from ftray.serve.models.slots import Slots
from ftray.serve.models.versions import VersionRouter
from ftray.serve.ops.log import logger
from ftray.serve.settings import ServedModel
from ftray.tasks.base import Question

_log = logger(__name__)

Start = Callable[[ServedModel, Slots], VersionRouter]
"""Loads a served model into slots. Raises ModelError when it does not give its golden answers."""
_LOADERS = 4
_RETRY_AFTER_S = 5


class ModelCache:
    """Holds at most `most` loaded models. A request for another model waits, for `wait_s` at most,
    until the cache has evicted the least recently used model and loaded the requested one."""

    def __init__(
        self, served: Sequence[ServedModel], start: Start, most: int, wait_s: float
    ) -> None:
        """Load as many of the served models as the cache may hold. Raises as `start`."""
        self._start, self._wait_s = start, wait_s
        self.entries = tuple(Entry(model, self) for model in served)
        self._held: OrderedDict[str, VersionRouter] = OrderedDict()  # the last used one last
        self._loading: dict[str, asyncio.Task[VersionRouter]] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        self._slots = Slots(most, wait_s, self._let_go)
        self._failed = Backoff()
        for model in served[:most]:
            self._held[model.address] = start(model, self._slots)

    def find(self, name: str, version: str | None = None) -> Entry | None:
        """Find an entry by its name, or by its address where several versions of one model are
        served."""
        for entry in self.entries:
            if name in (entry.name, entry.address) and version in (None, version_number(entry)):
                return entry
        return None

    def held(self, model: ServedModel) -> VersionRouter | None:
        return self._held.get(model.address)

    @property
    def current(self) -> list[Live]:
        """The current version of each model that the cache holds."""
        return [shelf.current for shelf in self._held.values()]

    async def shelf(self, model: ServedModel) -> VersionRouter:
        """Return the model's version router, loaded if need be, and mark it as used last. Raises
        Unavailable, Overloaded."""
        address = model.address
        if (shelf := self._held.get(address)) is not None:
            with suppress(KeyError):  # another thread has evicted it since
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
                # The load goes on when this caller is cancelled: other callers may wait for it.
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
        except Exception as error:  # noqa: BLE001 - logged, and raised in all callers
            self._failed.again(address)
            _log.error("%s cannot be loaded: %s", address, error, exc_info=_unforeseen(error))
            raise _unavailable(model, self._failed.left_s(address)) from None
        self._failed.forget(address)
        self._held[address] = shelf
        return shelf

    def _let_go(self, but: str) -> str | None:
        """Evict the least recently used model other than `but`. Return the evicted model's address;
        None where there is none."""
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
    """The `Backend` of one served model, whether the cache holds the model or not."""

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

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        return await (await self.catalog.shelf(self.model)).answer(questions, top_k)
