"""Several applications on the same Ray Serve: each service starts and ends only its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray import serve

from ftray.cli.display.live import LiveLine
from ftray.errors import ServeError
from ftray.serve.local.place import Place
from ftray.serve.local.server import endpoint
from ftray.serve.settings import find, parse
from tests.helpers.serving.served import free_port

SERVED = {"cpus_per_replica": 0.5}


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Other:
    def __call__(self) -> str:
        return "other"


@pytest.fixture
def others(ray_cluster: None) -> Iterator[int]:
    """Another user's application, at /other on this port."""
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"port": port})
    serve.run(Other.bind(), name="other", route_prefix="/other")
    yield port
    serve.shutdown()


class _Never:
    """Nobody asks to stop."""

    at_once = False

    def is_set(self) -> bool:
        return False


def _endpoint(model: Path, place: Place):  # type: ignore[no-untyped-def]
    served, spec = find(parse({"model": str(model), **SERVED}))
    return endpoint(served, spec, place, LiveLine(), _Never())


@pytest.mark.parametrize("prefix", [pytest.param("/", marks=pytest.mark.slow), "/reviews"])
def test_it_goes_beside_others_and_ends_its_own_alone(
    others: int, model_folder: Path, prefix: str
) -> None:
    other = f"http://127.0.0.1:{others}/other"
    with _endpoint(model_folder, Place(prefix=prefix)) as url:
        assert url == f"http://127.0.0.1:{others}{prefix}".rstrip("/")
        assert httpx.get(f"{url}/healthz").json()["model"] == "tiny"
        answer = httpx.post(f"{url}/v2/models/nobody/infer", json={})
        assert isinstance(answer.json()["error"], str), "the protocol's shape"
        assert httpx.get(other).text == "other"
    assert httpx.get(other).text == "other"
    assert serve.status().applications.keys() == {"other"}


@pytest.mark.slow
def test_what_has_no_room_is_refused_and_nothing_else_ends(others: int, model_folder: Path) -> None:
    for place, said in (
        (Place(prefix="/other"), "--route-prefix = /other: is that of other"),
        (Place(port=others + 1), f"Ray Serve listens on .*:{others} on this cluster already"),
    ):
        with pytest.raises(ServeError, match=said), _endpoint(model_folder, place):
            pass
    serve.run(Other.bind(), name="tiny", route_prefix="/theirs")
    with (
        pytest.raises(ServeError, match="an application of that name"),
        _endpoint(model_folder, Place()),
    ):
        pass
    assert serve.status().applications.keys() == {"other", "tiny"}


@pytest.mark.slow
def test_what_it_started_stays_for_those_who_came(ray_cluster: None, model_folder: Path) -> None:
    port = free_port()
    with _endpoint(model_folder, Place(port=port)):
        serve.run(Other.bind(), name="other", route_prefix="/other")
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/other").text == "other"
        assert serve.status().applications.keys() == {"other"}
    finally:
        serve.shutdown()
    with _endpoint(model_folder, Place(port=port)):
        pass
    assert not serve.status().proxies, "nobody was left who needs it"
