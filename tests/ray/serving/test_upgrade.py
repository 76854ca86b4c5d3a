"""A service that follows an alias, during promotions, canaries and rollbacks."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from ray import serve

from ftray.serve.app import build
from ftray.store.deployments.promotion import find_route, promote, resolve, roll_back, try_out
from ftray.store.deployments.reports import read_reports
from ftray.store.deployments.rollout import Rollout, await_rollout
from ftray.store.registry.registry import Registry
from tests.helpers.serving.upgrades import ALIAS, NAME, Callers, answers_of, register_versions
from tests.helpers.training.small_runs import wait_for

BROKEN = 3
PAUSE_S = 0.25  # each of the eight callers waits so long between two requests


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = register_versions(tmp_path_factory.mktemp("storage"), 4, broken=(BROKEN,))
    promote(registry, f"{NAME}:1", ALIAS)
    return registry


@pytest.fixture(scope="module")
def callers(ray_cluster: None, registry: Registry) -> Iterator[Callers]:
    """Two replicas of tiny@live, and eight callers that check every answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "model": f"{NAME}@{ALIAS}",
        "storage": str(registry.root),
        "replicas": {"min": 2, "max": 2},
        "cpus_per_replica": 0.5,
    }
    try:
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
        serve.run(build({**settings, "auth": False}), name="tiny")
        callers = Callers(
            f"http://127.0.0.1:{port}", answers_of(registry, (1, 2, 4)), pause_s=PAUSE_S
        )
        with callers.asking(8):
            yield callers
        assert not callers.wrong, callers.wrong[:5]
        assert len(read_reports(registry.root, NAME, ALIAS)) == 2
        serve.delete("tiny")
        assert read_reports(registry.root, NAME, ALIAS) == [], "replicas that end take theirs along"
    finally:
        serve.shutdown()


def test_what_is_promoted_answers_and_no_request_is_lost(
    registry: Registry, callers: Callers
) -> None:
    callers.wait_for({1})
    for version in (2, 4, 1):
        promote(registry, f"{NAME}:{version}", ALIAS)
        callers.wait_for({version})
    roll_back(registry, NAME, ALIAS)
    callers.wait_for({4})
    assert not callers.wrong


def test_a_version_that_does_not_prove_itself_never_answers(
    registry: Registry, callers: Callers
) -> None:
    def promoted(version: int) -> Rollout:
        changed = promote(registry, f"{NAME}:{version}", ALIAS)
        return await_rollout(registry.root, NAME, ALIAS, changed.route, 60, print)

    good = promoted(2)
    assert good.done and len(good.followed) == 2, "both replicas say so"
    callers.wait_for({2})
    began = time.monotonic()
    assert "golden answers" in promoted(BROKEN).undone
    assert resolve(registry, f"{NAME}@{ALIAS}").version == 2
    time.sleep(6)  # long enough for both replicas to poll
    assert callers.versions_since(began) == {2}
    assert promoted(1).done
    callers.wait_for({1})
    assert not callers.wrong


@pytest.mark.slow
def test_a_trial_gets_its_share_until_it_is_ended(registry: Registry, callers: Callers) -> None:
    promote(registry, f"{NAME}:1", ALIAS)
    callers.wait_for({1})
    try_out(registry, f"{NAME}:2", ALIAS, 0.5, shadow=False)
    callers.wait_for({1, 2})
    roll_back(registry, NAME, ALIAS)
    callers.wait_for({1})
    try_out(registry, f"{NAME}:{BROKEN}", ALIAS, 0.5, shadow=False)

    def ended() -> str:
        route = find_route(registry, NAME, ALIAS)
        assert route is not None
        return route.ended

    wait_for(ended, "the end of the trial")
    assert "golden answers" in ended()
    assert not callers.wrong
