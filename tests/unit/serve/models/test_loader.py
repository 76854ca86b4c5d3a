"""How a version that answers is loaded: a model alone as a graph, one of several by its blocks."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest

from ftray.errors import ModelError
from ftray.models.backends.traced import TracedModel
from ftray.models.sharing.weight_sharing import Pool
from ftray.serve.models.loaded_generator import LiveGenerator
from ftray.serve.models.loaded_predictor import LiveModel
from ftray.serve.models.loader import Loader
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners import generation_limits
from ftray.serve.runners.engine import Engine
from ftray.spec.sections.compute import PLAIN
from ftray.spec.sections.serving import Batching, GenerationLimits
from ftray.store.files.location import Location, locate
from ftray.store.root import MODEL_MANIFEST
from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import make_model, tamper

LIMITS = GenerationLimits(max_tokens=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_model(tmp_path_factory.mktemp("loader") / "model")


def loader(pool: Pool | None, limits: GenerationLimits = LIMITS) -> Loader:
    metrics = Metrics("replica")
    return Loader(Batching(), PLAIN, limits, metrics, Engine(Batching(), metrics), pool)


@pytest.mark.parametrize(("pool", "is_traced"), [(None, True), (Pool(), False)])
def test_a_model_alone_is_computed_as_a_graph(
    made: Location, pool: Pool | None, is_traced: bool
) -> None:
    live = loader(pool).load(made, "tiny", 1)
    assert isinstance(live, LiveModel)
    assert isinstance(live.loaded.model, TracedModel) is is_traced
    assert (live.loaded.lineage is None) is is_traced


def test_a_model_of_two_texts_is_loaded(made: Location, tmp_path: Path) -> None:
    """Its graph reads token types."""
    folder = tmp_path / "pairs"
    shutil.copytree(made.path, folder)
    manifest = json.loads((folder / MODEL_MANIFEST).read_text())
    manifest["spec"]["data"]["columns"] |= {"text": "a", "text_pair": "b", "label": "c"}
    (folder / MODEL_MANIFEST).write_text(json.dumps({**manifest, "golden": []}))
    live = loader(None).load(locate(str(folder)), "pairs", 1)
    assert isinstance(live, LiveModel) and isinstance(live.loaded.model, TracedModel)
    assert "token_type_ids" in live.loaded.made_up(3)[0]
    assert live.loaded.answers([{"text": "a fine film", "text_pair": "a film"}])[0]


@pytest.mark.parametrize("pool", [None, Pool()])
def test_a_model_that_has_answered_and_that_nobody_holds_is_gone_at_once(
    made: Location, pool: Pool | None
) -> None:
    async def run() -> None:
        live = loader(pool).load(made, "tiny", 1)
        await live.answer(["dull"], None)
        await live.check()
        model = weakref.ref(live.loaded)
        gc.collect()
        gc.disable()
        try:
            del live
            await asyncio.sleep(0.1)
            assert model() is None
        finally:
            gc.enable()

    asyncio.run(run())


def test_what_does_not_give_its_golden_answers_is_not_loaded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tamper(tmp_path / "model")
    with pytest.raises(ModelError, match="golden answers of tiny"):
        loader(None).load(folder, "tiny", 1)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A generator with 128 positions, whose tokens take 2 * 3 blocks * 2 heads * 16 * 4 bytes."""
    return make_generator(tmp_path_factory.mktemp("loader") / "writer")


@pytest.mark.parametrize(
    ("limits", "free", "context", "held"),
    [
        (LIMITS, 4 * 768 * 5000, 128, 5000),
        (GenerationLimits(16, max_context=100), 4 * 768 * 5000, 100, 5000),
        (GenerationLimits(16, cache_tokens=90), 4 * 768 * 5000, 90, 90),
        (LIMITS, 0, 128, 128),
    ],
)
def test_a_generator_holds_what_memory_has_room_for(
    writer: Location,
    monkeypatch: pytest.MonkeyPatch,
    limits: GenerationLimits,
    free: int,
    context: int,
    held: int,
) -> None:
    monkeypatch.setattr(generation_limits, "free_memory", lambda device: free)
    live = loader(None, limits).load(writer, "tiny", 1)
    assert isinstance(live, LiveGenerator)
    assert (live.capacity.context, live.capacity.cache_tokens) == (context, held)


@pytest.mark.parametrize(("wanted", "said"), [(129, "positions for 128"), (128, "has no room")])
def test_a_context_beyond_the_model_or_the_memory_is_refused(
    writer: Location, monkeypatch: pytest.MonkeyPatch, wanted: int, said: str
) -> None:
    monkeypatch.setattr(generation_limits, "_LEAST_TOKENS", 100)
    monkeypatch.setattr(generation_limits, "free_memory", lambda device: 0)
    with pytest.raises(ModelError, match=f"serve.max_context = {wanted}: .*{said}"):
        loader(None, GenerationLimits(16, max_context=wanted)).load(writer, "tiny", 1)
