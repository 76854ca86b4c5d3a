"""How a version that answers is loaded: a model alone as a graph, one of several by its blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftray.errors import ModelError
from ftray.models.pool import Pool
from ftray.models.traced import TracedModel
from ftray.serve.engine import Engine
from ftray.serve.live import LiveModel
from ftray.serve.loader import Loader
from ftray.serve.metrics import Metrics
from ftray.spec.compute import PLAIN
from ftray.spec.serving import Batching
from ftray.store.location import Location
from tests.helpers.tiny_model import make_model, tamper

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_model(tmp_path_factory.mktemp("loader") / "model")


def loader(pool: Pool | None) -> Loader:
    metrics = Metrics("replica")
    return Loader(Batching(), PLAIN, 16, metrics, Engine(Batching(), metrics), pool)


@pytest.mark.parametrize(("pool", "is_traced"), [(None, True), (Pool(), False)])
def test_a_model_alone_is_computed_as_a_graph(
    made: Location, pool: Pool | None, is_traced: bool
) -> None:
    live = loader(pool).load(made, "tiny", 1)
    assert isinstance(live, LiveModel)
    assert isinstance(live.predictor.model, TracedModel) is is_traced
    assert (live.predictor.lineage is None) is is_traced


def test_what_does_not_give_its_golden_answers_is_not_loaded(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tamper(tmp_path / "model")
    with pytest.raises(ModelError, match="golden answers of tiny"):
        loader(None).load(folder, "tiny", 1)
