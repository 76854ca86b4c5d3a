"""Several models of one base in one replica, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ray import serve

from ftray.models.inference.predictor import Predictor
from ftray.serve.app import build
from ftray.store.deployments.promotion import promote
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
from tests.helpers.models.tiny_model import make_model
from tests.helpers.serving.served import free_port, served

NAMES = ("first", "second", "third")
TEXTS = ["A wonderful film.", "dull", "naïve – 日本語 🎬", "It is " + "very " * 30 + "long."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("many")
    made = {name: make_model(root / name, name, seed=n, trained=n) for n, name in enumerate(NAMES)}
    return {name: Path(folder.path) for name, folder in made.items()}


@pytest.fixture(scope="module")
def client(ray_cluster: None, folders: dict[str, Path]) -> Iterator[httpx.Client]:
    """A client of one replica that has room for two of the three models."""
    port = free_port()
    settings = {"model": [str(folder) for folder in folders.values()], "max_models": 2}
    try:
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
        serve.run(build({**settings, "auth": False}), name="models")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[tuple[str, str], dict[str, float]]:
    found = {}
    for name, folder in folders.items():
        predictor = Predictor(locate(str(folder)))
        for text in TEXTS:
            (row,) = predictor.answers([text], 3)
            found[name, text] = {item["label"]: item["score"] for item in row}
    return found


def test_each_gives_its_own_answers(
    client: httpx.Client, expected: dict[tuple[str, str], dict[str, float]]
) -> None:
    def ask(asked: tuple[str, str]) -> None:
        name, text = asked
        body = {"inputs": [text], "top_k": 3}
        answer = client.post(f"/v1/models/{name}/predict", json=body)
        told = {item["label"]: item["score"] for item in answer.json()["outputs"][0]}
        assert told == pytest.approx(expected[asked], abs=1e-5)
        assert answer.json()["model"] == answer.headers["x-ftray-model"] == name

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, list(expected) * 8))


def test_they_are_listed_and_described(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == list(NAMES)
    assert client.get("/v1/models/third").json() == listed["data"][2]
    assert client.get("/v1/model").json() == listed["data"][0]
    assert client.get("/v2/models/second").json()["name"] == "second"
    missing = client.get("/v1/models/fourth")
    assert missing.status_code == 404
    assert "there are first, second, third" in missing.json()["error"]["message"]


def test_a_folder_that_was_changed_since_costs_the_others_nothing(
    client: httpx.Client, folders: dict[str, Path]
) -> None:
    def ask(name: str) -> httpx.Response:
        return client.post(f"/v1/models/{name}/predict", json={"inputs": "dull"})

    assert [ask(name).status_code for name in ("first", "second")] == [200, 200]
    weights = folders["third"] / "model.safetensors"
    away = weights.rename(weights.with_suffix(".away"))
    try:
        refused = ask("third")
        assert refused.status_code == 503
        pause_s = int(refused.headers["retry-after"])
        assert "third" in refused.json()["error"]["message"]
    finally:
        away.rename(weights)
    assert ask("third").json() == refused.json(), "it is not tried again at once"
    assert [ask(name).status_code for name in ("first", "second")] == [200, 200]
    time.sleep(pause_s)
    assert ask("third").status_code == 200


@pytest.mark.slow
def test_each_follows_its_own_alias(tmp_path: Path) -> None:
    root = open_root(str(tmp_path))
    registry = Registry(root)
    for name in NAMES[:2]:
        for version in (1, 2):
            folder = make_model(Path(root.models(name).path) / f"run-{version}", name, seed=version)
            registry.register(name, folder, f"run-{version}", {"accuracy": 0.5})
        promote(registry, f"{name}:1", "live")

    def versions() -> list[int]:
        answers = (
            client.post(f"/v1/models/{name}/predict", json={"inputs": "dull"}) for name in NAMES[:2]
        )
        return [answer.json()["version"] for answer in answers]

    references = [f"{name}@live" for name in NAMES[:2]]
    with (
        served(references[0], references[1], f"--storage={tmp_path}") as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert versions() == [1, 1]
        promote(registry, "second:2", "live")
        end = time.monotonic() + 180
        while versions() != [1, 2]:
            assert time.monotonic() < end, versions()
            time.sleep(0.2)
        listed = client.get("/v1/models").json()["data"]
        assert [(card["id"], card["version"]) for card in listed] == list(
            zip(references, [1, 2], strict=True)
        )
