"""Replicas of one alias: what they agree on, whatever fails at some of them."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ftray.cli.main import app
from ftray.errors import ModelError, RegistryError
from ftray.models.artifact.manifest import ModelInfo
from ftray.serve.local.news import News
from ftray.serve.models import backoff
from ftray.store.deployments.promotion import promote, roll_back, try_out
from ftray.store.deployments.reports import read_reports
from ftray.store.deployments.rollout import await_rollout
from ftray.store.deployments.route_file import read_route
from ftray.store.deployments.routes import AliasDeployment
from ftray.store.registry.registry import Registry
from ftray.store.root import MODEL_MANIFEST, open_root
from tests.helpers.serving.fake_backend import INFO
from tests.helpers.serving.fake_versions import FakeReplica

BAD = 3


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three") / "storage"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = open_root(str(folder))
        registry = Registry(root)
        for number in range(1, 5):
            model = root.models("m") / str(number)
            info: ModelInfo = INFO.model_copy(update={"name": "m"})
            (model / MODEL_MANIFEST).write_bytes(info.model_dump_json().encode())
            registry.register("m", model, f"run-{number}", {})
    return folder


@pytest.fixture
def registry(three_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Four versions of m, and m@live is the first."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(three_versions, tmp_path / "storage")
    registry = Registry(open_root(str(tmp_path / "storage")))
    promote(registry, "m:1", "live")
    return registry


def replica(registry: Registry, id: str, *refuses: int, **options: object) -> FakeReplica:
    return FakeReplica(str(registry.root), id, refuses=refuses, **options)  # type: ignore[arg-type]


def route(registry: Registry) -> AliasDeployment:
    found = read_route(registry.root, "m", "live")
    assert found is not None
    return found


@contextmanager
def polling(*replicas: FakeReplica) -> Iterator[None]:
    """As their own threads do, only more often."""
    over = threading.Event()

    def poll(one: FakeReplica) -> None:
        while not over.wait(0.02):
            one.poll()

    threads = [threading.Thread(target=poll, args=(one,)) for one in replicas]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def ftray(registry: Registry, *words: str) -> Result:
    return CliRunner().invoke(app, ["models", *words, f"--storage={registry.root}"])


def test_a_replica_that_starts_after_a_bad_promotion_answers_with_what_the_others_do(
    registry: Registry,
) -> None:
    first = replica(registry, "a", BAD)
    promote(registry, "m:2", "live")
    first.poll()
    promote(registry, f"m:{BAD}", "live")
    first.poll()
    later = replica(registry, "b", 1, BAD)
    assert [first.version, later.version] == [2, 2], "not the one that was deployed"
    assert later.loaded == [2], "nobody loads again what was refused"


def test_a_replica_that_starts_first_after_a_bad_promotion_refuses_it_for_all(
    registry: Registry,
) -> None:
    first = replica(registry, "a", BAD)
    promote(registry, f"m:{BAD}", "live")
    later = replica(registry, "b", BAD)
    first.poll()
    assert (first.version, later.version) == (1, 1)
    assert first.loaded == [1], "it looked when that was over"


def test_what_never_proved_itself_is_refused_at_the_start(registry: Registry) -> None:
    promote(registry, f"m:{BAD}", "live")
    with pytest.raises(ModelError, match="golden answers"):
        replica(registry, "a", BAD)
    promote(registry, "m:2", "live")
    assert replica(registry, "a", BAD).version == 2


def test_one_replica_that_cannot_load_a_version_does_not_take_it_from_the_others(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "_FIRST_PAUSE_S", 0.0)
    well, ill, poor = (replica(registry, name) for name in "abc")
    ill.refuses, poor.breaks = {2}, {2}
    changed = promote(registry, "m:2", "live")
    for one in (well, ill, poor):
        one.poll()
    assert [well.version, ill.version, poor.version] == [2, 1, 1]
    assert route(registry).current.version == 2 and registry.resolve("m@live").version == 2
    told = await_rollout(registry.root, "m", "live", changed.route, 5, print)
    assert told.followed == ("a",) and set(told.refused) == {"b", "c"} and not told.done
    assert "no memory" in told.refused["c"]
    ill.refuses, poor.breaks = set(), set()
    for one in (ill, poor):
        one.poll()
    assert [ill.version, poor.version] == [2, 2], "they try again by themselves"
    assert await_rollout(registry.root, "m", "live", changed.route, 5, print).done


def test_what_fails_is_tried_again_ever_later(registry: Registry) -> None:
    one = replica(registry, "a")
    one.breaks = {2}
    promote(registry, "m:2", "live")
    for _ in range(5):
        one.poll()
    assert one.loaded == [1, 2]
    promote(registry, "m:2", "live")
    one.poll()
    assert one.loaded == [1, 2, 2], "promoted again, it is tried at once"


def test_a_version_that_is_loaded_when_it_is_refused_elsewhere_never_answers(
    registry: Registry,
) -> None:
    loading, other = replica(registry, "a"), replica(registry, "b", 2)
    plain = loading.load

    def load(stop):  # type: ignore[no-untyped-def]
        model = plain(stop)
        other.poll()
        return model

    loading.watcher._load = load  # noqa: SLF001
    promote(registry, "m:2", "live")
    loading.poll()
    assert loading.version == other.version == 1
    assert loading.models[2].closed
    assert registry.resolve("m@live").version == 2
    assert roll_back_or_say(registry) == "has always been version 1"
    assert registry.resolve("m@live").version == 1, "the registry was told by then"


def roll_back_or_say(registry: Registry) -> str:
    with pytest.raises(RegistryError) as caught:
        roll_back(registry, "m", "live")
    return caught.value.problems[0].problem


def test_promote_waits_until_all_have_switched_and_says_who(registry: Registry) -> None:
    replicas = [replica(registry, name) for name in "ab"]
    with polling(*replicas):
        done = ftray(registry, "promote", "m:2", "--alias=live", "--wait=30", "--json")
    assert done.exit_code == 0, done.stderr
    assert "all replicas of m@live follow: a, b" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["replicas"] == ["a", "b"]
    assert [one.version for one in replicas] == [2, 2]


def test_promote_says_who_refuses_and_the_registry_claims_what_is_served(
    registry: Registry,
) -> None:
    replicas = [replica(registry, name, BAD) for name in "ab"]
    with polling(*replicas):
        done = ftray(registry, "promote", f"m:{BAD}", "--alias=live", "--wait=30")
    assert done.exit_code == 1, done.stderr
    assert "off by 0.3" in done.stderr and "The alias is version 1 by now" in done.stderr
    assert registry.resolve("m@live").version == 1
    for one in replicas:
        one.poll()
    assert [one.version for one in replicas] == [1, 1]
    shown = ftray(registry, "show", "m@live", "--json")
    told = json.loads(shown.stdout.splitlines()[-1])["routes"]["live"]
    assert told["version"] == told["proven"] == 1 and told["refused"]["version"] == BAD
    assert "version 3 was refused: golden answers" in ftray(registry, "show", "m").stdout


def test_without_waiting_the_next_command_tells_the_registry(registry: Registry) -> None:
    one = replica(registry, "a", BAD)
    assert ftray(registry, "promote", f"m:{BAD}", "--alias=live", "--wait=0").exit_code == 0
    one.poll()
    listed = ftray(registry, "list", "--json")
    models = json.loads(listed.stdout.splitlines()[-1])["models"]
    assert [m["version"] for m in models if "live" in m["aliases"]] == [1]


def test_promote_waits_for_nobody_where_nobody_serves(registry: Registry) -> None:
    done = ftray(registry, "promote", "m:2", "--alias=live", "--wait=600")
    assert (done.exit_code, done.stderr) == (0, "m@live is now version 2\n")


def test_promote_waits_no_longer_than_it_is_told(registry: Registry) -> None:
    replica(registry, "slow")
    done = ftray(registry, "promote", "m:2", "--alias=live", "--wait=0.3")
    assert done.exit_code == 1 and "no word yet from slow" in done.stderr
    assert registry.resolve("m@live").version == 2


def test_a_replica_that_gives_no_sign_of_life_is_not_waited_for(registry: Registry) -> None:
    """By the reader's own clock; that process lives on, as one does that cannot be seen."""
    living = replica(registry, "living")
    replica(registry, "dead", lease_s=0.3)
    with polling(living):
        done = ftray(registry, "promote", "m:2", "--alias=live", "--wait=60")
    assert done.exit_code == 0, done.stderr
    assert [r.replica for r in read_reports(registry.root, "m", "live")] == ["living"]


def test_a_replica_whose_process_died_here_is_not_waited_for(registry: Registry) -> None:
    gone = replica(registry, "gone")
    file = gone.alias.report("gone")
    file.write_json({**file.read_json(), "process": file.read_json()["process"] + "1"})
    done = ftray(registry, "promote", "m:2", "--alias=live", "--wait=60")
    assert done.exit_code == 0 and not file.exists()


def test_a_replica_that_ends_takes_its_report_along(registry: Registry) -> None:
    one = replica(registry, "a")
    assert [r.replica for r in read_reports(registry.root, "m", "live")] == ["a"]
    one.reporter.withdraw()
    one.poll()
    assert read_reports(registry.root, "m", "live") == []


def test_a_promotion_that_another_one_overtakes_is_told(registry: Registry) -> None:
    replica(registry, "a")
    mine = promote(registry, "m:2", "live")
    promote(registry, "m:4", "live")
    told = await_rollout(registry.root, "m", "live", mine.route, 60, print)
    assert told.undone == "another process has promoted version 4 meanwhile"


def test_a_trial_is_judged_by_the_counts_of_all_replicas(registry: Registry) -> None:
    """Each alone has too few to say anything; together they are enough."""

    async def run() -> None:
        kinds = {2: {"failing": True}}
        replicas = [replica(registry, name, kinds=kinds) for name in "abcd"]
        try_out(registry, "m:2", "live", 1.0, shadow=False)
        for one in replicas:
            one.poll()
        for one in replicas:
            await one.versions(8)
            one.poll()
        assert "requests failed, 0 of" in route(registry).ended
        for one in replicas:
            one.poll()
            assert one.shelf.trial is None

    asyncio.run(run())
    shown = ftray(registry, "show", "m@live")
    assert "the trial of version 2 ended: " in shown.stdout


def test_one_replica_where_a_trial_does_badly_does_not_end_it_for_all(
    registry: Registry,
) -> None:
    async def run() -> None:
        ill = replica(registry, "ill", kinds={2: {"failing": True}})
        others = [replica(registry, f"well-{number}") for number in range(30)]
        try_out(registry, "m:2", "live", 0.5, shadow=False)
        for one in (*others, ill):
            one.poll()
        for one in (*others, ill):
            await one.versions(40)
        for one in (*others, ill):
            one.poll()
        assert route(registry).trial is not None

    asyncio.run(run())


def test_a_trial_that_is_refused_is_told_to_who_began_it(registry: Registry) -> None:
    one = replica(registry, "a", BAD)
    with polling(one):
        done = ftray(registry, "promote", f"m:{BAD}", "--alias=live", "--share=10%", "--wait=30")
    assert done.exit_code == 1 and "off by 0.3" in done.stderr
    assert route(registry).current.version == 1 and route(registry).trial is None
    one.refuses = set()
    with polling(one):
        done = ftray(registry, "promote", f"m:{BAD}", "--alias=live", "--share=10%", "--wait=30")
    assert done.exit_code == 0, done.stderr


def test_a_storage_that_takes_no_writes_stops_no_replica(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replica(registry, "a")
    promote(registry, "m:2", "live")

    def failing(*_: object) -> AliasDeployment:
        raise OSError("read-only")

    monkeypatch.setattr("ftray.serve.models.alias.change_route", failing)
    one.poll()
    assert one.version == 2


def test_whoever_runs_the_service_is_told_what_becomes_of_the_alias(registry: Registry) -> None:
    one = replica(registry, "a", BAD)
    news = News(one.alias, 1)
    assert news.tell() == []
    promote(registry, "m:2", "live")
    assert news.tell() == [], "not before a replica answers with it"
    one.poll()
    assert news.tell() == ["m@live: version 2 takes over from version 1"]
    promote(registry, f"m:{BAD}", "live")
    one.poll()
    (line,) = news.tell()
    assert line.startswith(f"m@live: version {BAD} is refused: golden answers")
    try_out(registry, "m:1", "live", 0.25, shadow=False)
    one.poll()
    assert news.tell() == ["m@live: version 1 is on trial, with 25% of the requests"]
    roll_back(registry, "m", "live")
    one.poll()
    assert news.tell() == ["m@live: the trial of version 1 ended: it was rolled back"]
    assert news.tell() == []


def test_a_replica_opens_its_storage_once(registry: Registry) -> None:
    alias = pickle.loads(pickle.dumps(replica(registry, "a").alias))
    assert alias.root is alias.root
    again = pickle.loads(pickle.dumps(alias))
    assert again == alias and again.root.location.url == alias.root.location.url
