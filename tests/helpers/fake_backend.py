"""Made-up models behind the protocols: what they answer depends on a text's length alone."""

from __future__ import annotations

from collections.abc import Sequence

from ftray.models.folder import ModelInfo
from ftray.serve.backend import Answers

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
        "metrics": {"test": {"accuracy": 0.9, "confusion": [[1, 2], [3, 4]]}},
        "golden": [],
        "ftray_version": "0",
    }
)


def scores(text: str) -> dict[str, float]:
    """The longer the text the better."""
    good = min(len(text), 10) / 20
    return {"bad": 0.5 - good, "good": 0.25 + good, "mixed": 0.25}


class FakeBackend:
    info = INFO

    def __init__(self, name: str = "reviews", version: int | None = 3) -> None:
        self.name, self.address, self.version = name, name, version

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        ranked = [sorted(scores(t).items(), key=lambda item: -item[1]) for t in texts]
        rows = [[{"label": label, "score": score} for label, score in row] for row in ranked]
        chosen = [row[0] for row in rows] if top_k is None else [row[:top_k] for row in rows]
        return Answers(self.name, self.version, LABELS, chosen)


class FakeBackends:
    """Of the given ones, or of one alone."""

    def __init__(self, *entries: FakeBackend) -> None:
        self.entries = entries or (FakeBackend(),)

    def find(self, name: str, version: str | None = None) -> FakeBackend | None:
        found = (e for e in self.entries if name == e.name and version in (None, str(e.version)))
        return next(found, None)

    async def metrics_page(self) -> bytes:
        return b""
