"""Concurrent changes to one alias: registry, route and every replica agree in the end.

No request is answered by a version that nobody asked for or that failed its golden answers.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftray.errors import RegistryError
from ftray.serve.models import backoff
from ftray.store.deployments.promotion import find_route, promote, resolve, roll_back, try_out
from ftray.store.deployments.reports import Roll
from ftray.store.deployments.route_file import read_route
from ftray.store.registry.registry import Registry
from ftray.store.root import MODEL_MANIFEST, open_root
from tests.helpers.external.mlflow_server import MlflowServer
from tests.helpers.external.object_store import ObjectStore
from tests.helpers.serving.fake_versions import FakeReplica
from tests.helpers.serving.interleaved import interleave, taking_turns

VERSIONS = range(1, 6)
FAILING, BAD = 3, (4, 5)
"""FAILING raises on every request. The versions in BAD do not give their golden answers."""
ROUNDS = 5


@pytest.fixture(params=["disk", "s3"])
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """Five versions of model m, on a disk with SQLite or in S3 with an MLflow server."""
    if request.param == "disk":
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = open_root(str(tmp_path / "storage"))
    else:
        server: MlflowServer = request.getfixturevalue("mlflow_server")
        store: ObjectStore = request.getfixturevalue("object_store")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        root = open_root(store.url())
    registry = Registry(root)
    for number in VERSIONS:
        (root.models("m") / str(number) / MODEL_MANIFEST).write_json({"name": "m"})
        registry.register("m", root.models("m") / str(number), f"run-{number}", {})
    return registry


class Service:
    """The replicas of one alias of m, and the commands that change the alias."""

    def __init__(self, registry: Registry, chance: random.Random, alias: str = "live") -> None:
        self.registry, self.chance, self.alias = registry, chance, alias
        self.replicas: list[FakeReplica] = []
        self.asked: set[int | None] = {1}
        self.started = 0
        promote(registry, "m:1", alias)

    def start(self) -> None:
        self.started += 1
        kinds = {FAILING: {"failing": True}}
        name = f"{self.chance.randrange(16**6):06x}-{self.started}"
        storage = self.registry.root.location.url
        replica = FakeReplica(storage, name, BAD, alias=self.alias, kinds=kinds, lease_s=0.5)
        self.replicas.append(replica)

    def promote(self) -> None:
        version = self.chance.choice([v for v in VERSIONS if v != FAILING])
        self.asked.add(version)
        promote(self.registry, f"m:{version}", self.alias)

    def try_out(self) -> None:
        version = self.chance.choice(VERSIONS)
        self.asked.add(version)
        with _told(f"is what {self.alias} means already"):
            share, shadow = self.chance.choice((0.5, 1.0)), self.chance.random() < 0.3
            try_out(self.registry, f"m:{version}", self.alias, share, shadow)

    def roll_back(self) -> None:
        with _told("has always been", "another process has just changed it"):
            roll_back(self.registry, "m", self.alias)

    def lose_one(self) -> None:
        if len(self.replicas) > 1:
            self.replicas.remove(self.chance.choice(self.replicas))

    def ask(self) -> None:
        async def everywhere() -> set[int | None]:
            return {v for one in self.replicas for v in await one.versions(12)}

        answered = asyncio.run(everywhere())
        assert answered <= self.asked - {*BAD}, (answered, self.asked)

    def upset(self) -> None:
        """Runs one round of concurrent events.

        The events are two commands, a poll by each replica, and maybe the start of a replica. One
        of these actors may be killed in the middle.
        """
        commands = self.chance.choices((self.promote, self.try_out, self.roll_back), k=2)
        works: list[Callable[[], None]] = [*commands, *(one.poll for one in self.replicas)]
        if self.chance.random() < 0.4:
            works.append(self.start)
        kills = int(self.chance.random() < 0.4)
        interleave(self.chance, works, kills)
        if self.chance.random() < 0.3:
            self.lose_one()

    def check_agreement(self) -> None:
        find_route(self.registry, "m", self.alias)  # any command calls find_route first
        for _ in range(6):
            for one in self.replicas:
                one.poll()
        meant = resolve(self.registry, f"m@{self.alias}").version
        self.start()
        self.ask()
        route = read_route(self.registry.root, "m", self.alias)
        assert route is not None and route.proven == route.current
        told = {one.reporter.replica: one.version for one in self.replicas}
        assert {route.current.version, meant, *told.values()} == {meant}, (route, told)
        held = {one.shelf.trial and one.shelf.trial.id for one in self.replicas}
        assert held == {route.trial and route.trial.id}
        living = Roll(self.registry.root, "m", self.alias).call()
        assert {r.replica: r.version for r in living if r.replica in told} == told


class _told:
    """Lets a command fail with one of the given problems.

    Two commands that run at once may cause such a failure.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, RegistryError):
            return False
        return any(problem in str(error) for problem in self.problems)


@pytest.mark.parametrize(
    "seeds", [range(1), pytest.param(range(1, 20), marks=pytest.mark.slow)], ids=["one", "many"]
)
def test_random_interleavings_end_in_agreement(
    registry: Registry, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "_FIRST_PAUSE_S", 0.0)
    for seed in seeds:
        chance = random.Random(seed)
        random.seed(seed)
        service = Service(registry, chance, f"alias-{seed}")
        service.start()
        service.start()
        with taking_turns():
            for _ in range(ROUNDS):
                service.upset()
                service.ask()
            service.check_agreement()


RACER = """
import random, sys
from ftray.errors import RegistryError
from ftray.store.deployments.promotion import promote, roll_back, try_out
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
registry, chance = Registry(open_root(sys.argv[1])), random.Random(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4):
    version = chance.choice((1, 2, 2, 4))
    try:
        chance.choice((
            lambda: promote(registry, f"m:{version}", "live"),
            lambda: try_out(registry, f"m:{version}", "live", 0.5, shadow=False),
            lambda: roll_back(registry, "m", "live"),
        ))()
    except RegistryError as error:
        print(error, file=sys.stderr)
print("done", flush=True)
"""


def test_processes_that_race_on_one_alias_end_in_agreement(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs three racing processes beside two replicas that poll all the time.

    One of the three processes is killed in the middle.
    """
    monkeypatch.setattr(backoff, "_FIRST_PAUSE_S", 0.0)
    service = Service(registry, random.Random(1))
    service.asked |= {2, 4}
    service.start()
    service.start()
    url = registry.root.location.url
    racers = [_racer(url, seed) for seed in range(3)]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    over, wrong = threading.Event(), []

    def keep_on(replica: FakeReplica) -> None:
        while not over.wait(0.05):
            try:
                replica.poll()
                answered = asyncio.run(replica.versions(5))
                assert set(answered) <= {1, 2}, answered
            except BaseException as error:  # noqa: BLE001 - raised below
                wrong.append(error)
                return

    threads = [threading.Thread(target=keep_on, args=(one,)) for one in service.replicas]
    for thread in threads:
        thread.start()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    time.sleep(0.3)
    racers[0].kill()
    told = [racer.communicate(timeout=300) for racer in racers]
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    assert [out for out, _ in told[1:]] == ["done\n"] * 2, told
    service.check_agreement()


def _racer(url: str, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RACER, url, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )
