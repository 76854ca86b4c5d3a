"""Fake versions of one model, and a replica of them that tests drive by hand.

The replica's watcher is the real one, on a real storage root.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from ftray.errors import ModelError
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import Answers, BadPrompt, Generation, Piece
from ftray.serve.models.alias import Alias
from ftray.serve.models.loaded_predictor import LiveModel
from ftray.serve.models.reporter import Reporter
from ftray.serve.models.versions import VersionRouter
from ftray.serve.models.watcher import Watcher
from ftray.store.deployments.routes import VersionRef
from tests.helpers.serving.fake_backend import INFO


class FakeModel:
    """Answers with its version number. Fails, or answers another label, where the test says so."""

    info = INFO

    def __init__(
        self,
        version: int,
        failing: bool = False,
        label: str = "good",
        breaks: bool = False,
        refusing: bool = False,
    ) -> None:
        """Sets faults: `breaks` raises within a generated answer, `refusing` refuses prompts."""
        self.version, self.failing, self.label = version, failing, label
        self.breaks, self.refusing = breaks, refusing
        self.closed = False
        self.open = 0
        """Number of answers being generated now."""
        self.free = asyncio.Event()
        self.free.set()

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        await self.free.wait()
        if self.failing:
            raise ArithmeticError("boom")
        outputs, best = [{"label": self.label}] * len(texts), [self.label] * len(texts)
        return Answers("m", self.version, ("good",), outputs, best)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        if self.refusing:
            raise BadPrompt("prompt", "no chat template", "no_chat")
        return Generation("m", self.version, 1, self._pieces())

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        self.open += 1
        try:
            if self.failing:
                raise ArithmeticError("boom")
            yield Piece("It is ", 1)
            await self.free.wait()
            if self.breaks:
                raise ArithmeticError("boom")
            yield Piece(self.label, 2, "stop")
        finally:
            self.open -= 1

    def apart(self) -> FakeModel:
        return self

    def settled(self) -> FakeModel:
        return self

    def close(self) -> None:
        self.closed = True


class FakeReplica:
    """A replica of m@ALIAS below `storage`.

    loaded: the versions that the replica has loaded, in order.
    """

    def __init__(
        self,
        storage: str,
        id: str = "r1",
        refuses: Sequence[int] = (),
        breaks: Sequence[int] = (),
        alias: str = "live",
        lease_s: float = 30.0,
        kinds: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        """Sets faults of versions.

        refuses: versions that do not give their golden answers; breaks: versions whose loading
        fails in another way; kinds: version -> arguments of its FakeModel.
        """
        self.refuses, self.breaks, self.kinds = set(refuses), set(breaks), kinds or {}
        self.models: dict[int, FakeModel] = {}
        self.loaded: list[int] = []
        self.shadowed: Counter[bool] = Counter()
        self.alias = Alias(storage, "m", alias, stop(1))
        self.reporter = Reporter(self.alias, id, lease_s)
        self.watcher = Watcher(self.alias, self.load, self.reporter, self._count_shadow)

    @property
    def shelf(self) -> VersionRouter:
        return self.watcher.shelf

    @property
    def version(self) -> int | None:
        return self.shelf.current.version

    def poll(self) -> None:
        self.watcher.poll()

    def load(self, stop: VersionRef) -> LiveModel:
        self.loaded.append(stop.version)
        if stop.version in self.refuses:
            raise ModelError.of("golden answers", "a", "off by 0.3", "export it again")
        if stop.version in self.breaks:
            raise MemoryError("no memory for two")
        self.models[stop.version] = FakeModel(stop.version, **self.kinds.get(stop.version, {}))
        return cast(LiveModel, self.models[stop.version])

    def _count_shadow(self, version: int | None, agrees: bool) -> None:
        self.shadowed[agrees] += 1

    async def versions(self, count: int = 1) -> Counter[Any]:
        """Sends `count` requests and counts them by the version that answered."""
        found = [(await self.shelf.answer(["a"], None)).version for _ in range(count)]
        await asyncio.sleep(0)
        return Counter(found)

    async def generated(self, temperature: float = 0.0) -> tuple[int | None, str]:
        """Version and text of one whole generated answer."""
        generation = await self.shelf.generate("a", Sampling(temperature=temperature))
        text = "".join([piece.text async for piece in generation.pieces])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return generation.version, text


def stop(version: int) -> VersionRef:
    return VersionRef(version=version, folder=f"models/m/{version}")
