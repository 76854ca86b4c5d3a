"""Distinguishable versions of one model, and callers that send requests all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ftray.models.inference.predictor import Predictor
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
from tests.helpers.models.tiny_model import make_model, tamper

NAME, ALIAS = "tiny", "live"
TEXTS = ("A wonderful film.", "Dull.", "It is neither good nor bad, only long.", "naïve 🎬")
CLOSE = 1e-4
Expected = Mapping[int | None, list[dict[str, float]]]
"""Version -> its answer to each of TEXTS: label -> probability."""


def register_versions(storage: Path, count: int, broken: tuple[int, ...] = ()) -> Registry:
    """Registers `count` versions of `tiny`, each with a head of its own.

    The versions in `broken` do not give their golden answers.
    """
    root = open_root(str(storage))
    registry = Registry(root)
    for number in range(1, count + 1):
        folder = make_model(Path(root.models(NAME).path) / f"run-{number}", seed=number)
        registry.register(NAME, folder, f"run-{number}", {"accuracy": 0.5})
        if number in broken:
            tamper(Path(folder.path))
    return registry


def answers_of(registry: Registry, versions: tuple[int, ...], name: str = NAME) -> Expected:
    found: dict[int | None, list[dict[str, float]]] = {}
    for version in versions:
        predictor = Predictor(registry.resolve(f"{name}:{version}").folder)
        rows = predictor.answers(TEXTS, len(predictor.info.labels))
        found[version] = [{item["label"]: item["score"] for item in row} for row in rows]
    return found


class Callers:
    """Callers that send requests without end; tests inspect the answers afterwards.

    patience_s: how long a caller tries again when the server refuses or drops the connection, or
    asks for a retry (Retry-After). At 0, one such moment counts as a fault.

    pause_s: how long each caller waits after an answer.
    """

    def __init__(
        self, url: str, expected: Expected, patience_s: float = 0.0, pause_s: float = 0.0
    ) -> None:
        self.url = url
        self.expected = expected
        self.patience_s = patience_s
        self.pause_s = pause_s
        self.tried_again = 0
        self.seen: list[tuple[float, int | None]] = []
        """When each answer came, and from which version."""
        self.waits: list[float] = []
        """Seconds that each answer took, wrong answers included."""
        self.wrong: list[str] = []
        self._over = threading.Event()

    @contextmanager
    def asking(self, count: int) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def versions_since(self, moment: float) -> set[int | None]:
        return {version for when, version in self.seen if when >= moment}

    def wait_for(self, versions: set[int | None], seconds: float = 30.0) -> None:
        """Waits until only these versions answer, judged by the last 40 answers."""
        end = time.monotonic() + seconds
        while {version for _, version in self.seen[-40:]} != versions:
            assert time.monotonic() < end, f"{self.seen[-5:]} and not {versions}; {self.wrong[:3]}"
            time.sleep(0.05)

    def _ask(self, number: int) -> None:
        # The timeout is longer than a row waits before the service itself answers 503.
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._over.is_set():
                place = number % len(TEXTS)
                number += 1
                began = time.monotonic()
                try:
                    self._look(self._post(client, place), place)
                    self.waits.append(time.monotonic() - began)
                except httpx.HTTPError as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                self._over.wait(self.pause_s)

    def _post(self, client: httpx.Client, place: int) -> httpx.Response:
        end = time.monotonic() + self.patience_s
        while True:
            over = time.monotonic() >= end
            try:
                response = client.post("/v1/predict", json=_body(place))
                if over or "retry-after" not in response.headers:
                    return response
            except httpx.TransportError:
                if over:
                    raise
            self.tried_again += 1
            time.sleep(0.1)

    def _look(self, response: httpx.Response, place: int) -> None:
        if response.status_code != 200:
            self.wrong.append(f"{response.status_code}: {response.text[:200]}")
            return
        body = response.json()
        version = body["version"]
        self.seen.append((time.monotonic(), version))
        (row,) = body["outputs"]
        told = {item["label"]: item["score"] for item in row}
        known = self.expected[version][place]
        gap = max(abs(told[label] - known[label]) for label in known)
        if gap > CLOSE or response.headers["x-ftray-version"] != str(version or ""):
            self.wrong.append(f"version {version} is off by {gap}: {response.headers}")


def _body(place: int) -> dict[str, Any]:
    return {"inputs": [TEXTS[place]], "top_k": 9}
