"""The models that a replica serves, and those of them that it holds: the last used ones."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftray.errors import FtrayError
from ftray.models.folder import ModelInfo
from ftray.models.sampling import Prompt, Sampling
from ftray.serve.backend import Answers, Generation, Unavailable, version_number
from ftray.serve.loader import Live
from ftray.serve.log import logger
from ftray.serve.settings import ServedModel
from ftray.serve.shelf import Shelf

_log = logger(__name__)

Start = Callable[[ServedModel], Shelf]
"""Loads what is to be served. Raises ModelError when it does not prove itself."""


class Catalog:
    """At most `most` models are held; who is asked for another one waits until it is loaded."""

    def __init__(self, served: Sequence[ServedModel], start: Start, most: int) -> None:
        """Loads as many as may be held. Raises as `start`."""
        self._start, self._most = start, most
        self.entries = tuple(Entry(model, self) for model in served)
        self._held: OrderedDict[str, Shelf] = OrderedDict()  # by use, the latest one last
        self._loading: dict[str, asyncio.Task[Shelf]] = {}
        for model in served[:most]:
            self._held[model.address] = start(model)

    def find(self, name: str, version: str | None = None) -> Entry | None:
        """By its name, or by its address where several versions of one model are served."""
        for entry in self.entries:
            if name in (entry.name, entry.address) and version in (None, version_number(entry)):
                return entry
        return None

    def held(self, model: ServedModel) -> Shelf | None:
        return self._held.get(model.address)

    @property
    def current(self) -> list[Live]:
        """The version that answers, of each model that is held."""
        return [shelf.current for shelf in self._held.values()]

    async def shelf(self, model: ServedModel) -> Shelf:
        """It is the one used last from now on. Raises Unavailable."""
        address = model.address
        if (shelf := self._held.get(address)) is not None:
            self._held.move_to_end(address)
            return shelf
        if address not in self._loading:
            task = asyncio.get_running_loop().create_task(self._load(model))
            self._loading[address] = task
            task.add_done_callback(lambda _: self._loading.pop(address))
        # Others may wait for it too when this caller goes away.
        return await asyncio.shield(self._loading[address])

    async def _load(self, model: ServedModel) -> Shelf:
        loop = asyncio.get_running_loop()
        try:
            shelf = await loop.run_in_executor(None, self._start, model)
        except FtrayError as error:
            _log.error("%s cannot be loaded: %s", model.address, error)
            raise Unavailable(f"{model.address} cannot be loaded") from error
        self._held[model.address] = shelf
        while len(self._held) > self._most:
            _, oldest = self._held.popitem(last=False)
            oldest.close()
        return shelf


@dataclass(frozen=True)
class Entry:
    """One served model, held or not: a `Backend`."""

    model: ServedModel
    catalog: Catalog

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
