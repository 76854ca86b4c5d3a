"""Fake models behind the serving protocols, without weights.

The scores of the fake classifier depend on the length of a text alone. The fake generator plays a
given script.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import Answers, Generation, Piece

LABELS = ("bad", "good", "mixed")
INFO = ModelInfo.model_validate(
    {
        "name": "reviews",
        "run": "20260101-000000-abcdef",
        "task": "text-classification",
        "labels": LABELS,
        "max_length": 64,
        "base": {"name_or_path": "some/base"},
        "data_digest": "d",
        "spec": {},
        "metrics": {
            "test": {"accuracy": 0.9, "confused": [{"label": "a", "predicted": "b", "rows": 2}]}
        },
        "golden": [],
        "ftray_version": "0",
    }
)


def scores(text: str) -> dict[str, float]:
    """Scores a text by its length: the longer the text, the higher "good"."""
    good = min(len(text), 10) / 20
    return {"bad": 0.5 - good, "good": 0.25 + good, "mixed": 0.25}


class FakeBackend:
    info = INFO
    fault = ""

    def __init__(self, name: str = "reviews", version: int | None = 3) -> None:
        self.name, self.address, self.version = name, name, version

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        ranked = [sorted(scores(t).items(), key=lambda item: -item[1]) for t in texts]
        rows = [[{"label": label, "score": score} for label, score in row] for row in ranked]
        chosen = [row[0] for row in rows] if top_k is None else [row[:top_k] for row in rows]
        best = [row[0]["label"] for row in rows]
        return Answers(self.name, self.version, LABELS, chosen, best)


HELLO = (Piece("Hello", 1), Piece(" world", 2), Piece("", 3, "stop"))


class FakeGenerator(FakeBackend):
    """Plays `script` as each answer: it raises an exception in the script and waits for an event.

    asked: every prompt with its sampling parameters; open: number of answers being generated; loop:
    the event loop that called `generate` last.
    """

    info = INFO.model_copy(update={"task": "text-generation", "labels": ()})

    def __init__(
        self,
        script: Sequence[Piece | Exception | asyncio.Event] = HELLO,
        name: str = "writer",
        refusal: Exception | None = None,
    ) -> None:
        super().__init__(name)
        self.script, self.refusal = script, refusal
        self.asked: list[tuple[Prompt, Sampling]] = []
        self.open = 0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        self.asked.append((prompt, sampling))
        self.loop = asyncio.get_running_loop()
        if self.refusal is not None:
            raise self.refusal
        return Generation(self.name, self.version, len(prompt), self._pieces())

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        self.open += 1
        try:
            for part in self.script:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, asyncio.Event):
                    await part.wait()
                else:
                    yield part
        finally:
            # gives other tasks a turn, like a generator that awaits while it closes
            await asyncio.sleep(0)
            self.open -= 1


class FakeBackends:
    """Finds the given backends by name and version; holds one default backend if none is given."""

    fault = ""

    def __init__(self, *entries: FakeBackend) -> None:
        self.entries = entries or (FakeBackend(),)

    def find(self, name: str, version: str | None = None) -> FakeBackend | None:
        found = (e for e in self.entries if name == e.name and version in (None, str(e.version)))
        return next(found, None)

    async def metrics_page(self) -> bytes:
        return b""
