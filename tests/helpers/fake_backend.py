"""A made-up model behind the protocols: what it answers depends on a text's length alone."""

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
    name, version, info = "reviews", 3, INFO

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        ranked = [sorted(scores(t).items(), key=lambda item: -item[1]) for t in texts]
        rows = [[{"label": label, "score": score} for label, score in row] for row in ranked]
        chosen = [row[0] for row in rows] if top_k is None else [row[:top_k] for row in rows]
        return Answers(self.version, LABELS, chosen)

    async def metrics_page(self) -> bytes:
        return b""
