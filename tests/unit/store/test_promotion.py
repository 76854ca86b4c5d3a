"""Promoting, trying out and rolling back: what the registry says, and what serving follows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import RegistryError
from ftray.store.deployments.promotion import (
    find_route,
    promote,
    resolve,
    roll_back,
    settled_routes,
    try_out,
)
from ftray.store.deployments.route_file import change_route, read_route, read_routes
from ftray.store.deployments.routes import AliasDeployment, Refusal, Trial, VersionRef
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import alias_in
from ftray.store.removal import delete_version
from ftray.store.root import MODEL_MANIFEST, Root, open_root


def end_trial(root: Root, alias: str, trial: Trial) -> None:
    change_route(root, "m", alias, lambda now: now and now.trial_ended(trial, "too slow"))


@pytest.fixture(scope="module")
def four_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with four versions of one model, to be copied."""
    folder = tmp_path_factory.mktemp("four") / "storage"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = open_root(str(folder))
        registry = Registry(root)
        for number in range(1, 5):
            model = root.models("m") / f"run-{number}"
            (model / MODEL_MANIFEST).write_json({"name": "m"})
            registry.register("m", model, f"run-{number}", {"accuracy": 0.5})
    return folder


@pytest.fixture
def registry(four_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(four_versions, tmp_path / "storage")
    return Registry(open_root(str(tmp_path / "storage")))


def served(root: Root) -> tuple[int, int | None]:
    """The current version of m@live as replicas read it, and the one on trial."""
    route = read_route(root, "m", "live")
    assert route is not None
    assert route.current.folder == f"models/m/run-{route.current.version}"
    return route.current.version, route.trial.stop.version if route.trial else None


def test_going_forth_and_back(registry: Registry) -> None:
    root = registry.root
    assert read_route(root, "m", "live") is None
    for number in (1, 2, 3):
        assert promote(registry, f"m:{number}", "live").model.aliases == ("live",)
        assert served(root) == (number, None)
    assert roll_back(registry, "m", "live").model.version == 2
    assert registry.resolve("m@live").version == 2
    assert roll_back(registry, "m", "live").model.version == 1
    assert served(root) == (1, None)
    with pytest.raises(RegistryError, match="has always been version 1"):
        roll_back(registry, "m", "live")
    assert promote(registry, "m:4", "other").model.aliases == ("other",)
    assert served(root) == (1, None)


def test_a_trial_is_promoted_or_ended(registry: Registry) -> None:
    root = registry.root
    promote(registry, "m:1", "live")
    try_out(registry, "m:2", "live", 0.1, shadow=False)
    assert served(root) == (1, 2) and registry.resolve("m@live").version == 1
    assert roll_back(registry, "m", "live").model.version == 1
    assert served(root) == (1, None)
    try_out(registry, "m:3", "live", 1.0, shadow=True)
    promote(registry, "m:3", "live")
    assert served(root) == (3, None)
    assert roll_back(registry, "m", "live").model.version == 1


def test_a_trial_needs_an_alias_and_another_version(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="no such alias"):
        try_out(registry, "m:2", "live", 0.1, shadow=False)
    promote(registry, "m:2", "live")
    with pytest.raises(RegistryError, match="what live means already"):
        try_out(registry, "m:2", "live", 0.1, shadow=False)


def test_a_replica_ends_only_the_trial_that_it_means(registry: Registry) -> None:
    root = registry.root
    promote(registry, "m:1", "live")
    try_out(registry, "m:2", "live", 0.1, shadow=False)
    old = try_out(registry, "m:2", "live", 0.1, shadow=False).route.trial
    assert old is not None
    try_out(registry, "m:3", "live", 0.1, shadow=False)
    end_trial(root, "live", old)
    assert served(root) == (1, 3)
    found = read_route(root, "m", "live")
    assert found is not None and found.trial is not None
    end_trial(root, "live", found.trial)
    ended = read_route(root, "m", "live")
    assert ended is not None and (ended.trial, ended.ended) == (
        None,
        "the trial of version 3 ended: too slow",
    )


def test_the_registry_is_right_where_other_tools_changed_it(registry: Registry) -> None:
    promote(registry, "m:1", "live")
    registry.point("live", "m", 4)
    found = find_route(registry, "m", "live")
    assert found is not None and found.current.version == 4
    assert served(registry.root) == (4, None)
    assert roll_back(registry, "m", "live").model.version == 1
    assert find_route(registry, "m", "nothing") is None


def test_a_broken_file_is_named(registry: Registry) -> None:
    (registry.root.routes("m") / "live.json").write_text('{"current": 3}')
    with pytest.raises(RegistryError, match=r"routes/m/live\.json"):
        read_route(registry.root, "m", "live")


def test_history_is_kept_within_bounds(registry: Registry) -> None:
    route = AliasDeployment(current=VersionRef(version=1, folder="a"))
    for number in range(2, 200):
        route = route.to(VersionRef(version=number, folder="a"))
    assert len(route.before) == 50 and route.back().current.version == 198
    change_route(registry.root, "m", "x", lambda known: route)
    kept = read_route(registry.root, "m", "x")
    assert kept is not None and kept.before == route.before


@pytest.mark.parametrize(
    ("reference", "found"),
    [("m@live", ("m", "live")), ("m", None), ("m:3", None), ("m@latest", None), ("./m@x", None)],
)
def test_the_alias_of_a_reference(reference: str, found: tuple[str, str] | None) -> None:
    assert alias_in(reference) == found


def test_the_commands(registry: Registry) -> None:
    def run(*words: str) -> tuple[int, str]:
        storage = f"--storage={registry.root}"
        done = CliRunner().invoke(app, ["models", *words, "--alias", "live", storage])
        return done.exit_code, done.stderr

    assert run("promote", "m:1") == (0, "m@live is now version 1\n")
    code, said = run("promote", "m:2", "--share", "10%")
    assert (code, said) == (0, "version 2 gets 10% of the requests to live\n")
    assert served(registry.root) == (1, 2)
    code, said = run("promote", "m:2", "--shadow")
    assert "copies of 100% of the requests" in said
    for wrong in ("0", "110%", "many", "-3"):
        code, said = run("promote", "m:2", f"--share={wrong}")
        assert code == 2 and f"--share = {wrong}" in said
    assert run("rollback", "m")[0] == 0
    assert served(registry.root) == (1, None)
    assert run("rollback", "m")[0] == 2


def agreed(registry: Registry) -> int:
    """What route and registry mean by m@live, without another command in between."""
    route = read_route(registry.root, "m", "live")
    assert route is not None and route.settled, route
    assert registry.resolve("m@live").version == route.current.version
    return route.current.version


def test_the_file_of_an_older_ftray_is_read_and_each_alias_gets_its_own(
    registry: Registry,
) -> None:
    root = registry.root

    def stop(version: int) -> dict[str, Any]:
        return {"version": version, "folder": f"models/m/run-{version}"}

    older = {"current": stop(2), "before": [stop(1)], "trial": None, "ended": ""}
    tried = {**older, "trial": {"stop": stop(3), "share": 0.1, "shadow": False}}
    file = root.location / "routes" / "m.json"
    file.write_text(json.dumps({"routes": {"live": older, "other": tried}}))
    for alias in ("live", "other"):
        registry.point(alias, "m", 2)
    assert served(root) == (2, None)
    assert sorted(read_routes(root, "m")) == ["live", "other"]
    assert roll_back(registry, "m", "live").model.version == 1
    assert served(root) == (1, None) and agreed(registry) == 1
    other = read_route(root, "m", "other")
    assert other is not None and other.trial is not None and other.trial.stop.version == 3
    end_trial(root, "other", other.trial)
    assert "too slow" in read_routes(root, "m")["other"].ended
    assert read_routes(root, "m")["live"].current.version == 1, "what is older is not read again"


def test_a_trial_that_ends_undoes_no_promotion(registry: Registry) -> None:
    promote(registry, "m:1", "live")
    trial = try_out(registry, "m:2", "live", 0.1, shadow=False).route.trial
    promote(registry, "m:3", "live")
    assert trial is not None
    end_trial(registry.root, "live", trial)
    assert served(registry.root) == (3, None)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_killed_command_left_is_finished_by_the_next(
    registry: Registry, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed between route and registry, or after both and before it said so."""
    promote(registry, "m:1", "live")
    plain = Registry.point

    def killed(self: Registry, alias: str, name: str, version: int) -> None:
        if moment == "after":
            plain(self, alias, name, version)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, "point", killed)
        promote(registry, "m:2", "live")
    assert served(registry.root) == (2, None), "replicas follow it"
    assert resolve(registry, "m@live").version == agreed(registry) == 2
    assert roll_back(registry, "m", "live").model.version == agreed(registry) == 1


def test_a_process_that_died_while_it_wrote_is_found_dead(registry: Registry) -> None:
    code = """
import os, sys
from ftray.store.deployments.promotion import promote
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
Registry.point = lambda *_: os._exit(9)
promote(Registry(open_root(sys.argv[1])), "m:2", "live")
"""
    promote(registry, "m:1", "live")
    killed = subprocess.run([sys.executable, "-c", code, str(registry.root)], check=False)
    assert killed.returncode == 9
    assert registry.resolve("m@live").version == 1, "what is to be mended"
    assert resolve(registry, "m@live").version == agreed(registry) == 2
    registry.point("live", "m", 4)
    found = find_route(registry, "m", "live")
    assert found is not None and found.current.version == 4, "other tools are heard again"


def test_a_registry_that_fails_is_made_up_for_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Registry, alias: str, name: str, version: int) -> None:
        raise RegistryError.of("registry", "x", "cannot be used", "check that the server runs")

    promote(registry, "m:1", "live")
    with monkeypatch.context() as patch, pytest.raises(RegistryError, match="cannot be used"):
        patch.setattr(Registry, "point", failing)
        promote(registry, "m:2", "live")
    assert settled_routes(registry, "m")["live"].current.version == agreed(registry) == 2


def test_commands_that_race_all_take_effect_and_leave_no_contradiction(
    registry: Registry,
) -> None:
    """Each alias has its own file; of those for the same alias each is in its history."""
    root = registry.root
    promote(registry, "m:1", "live")
    wrong: list[BaseException] = []

    def command(number: int) -> None:
        own = Registry(root)
        try:
            promote(own, f"m:{1 + number % 4}", "live")
            promote(own, f"m:{1 + number % 4}", f"own-{number}")
        except BaseException as error:  # noqa: BLE001 - looked at below
            wrong.append(error)

    threads = [threading.Thread(target=command, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    agreed(registry)
    route = read_route(root, "m", "live")
    assert route is not None and {stop.version for stop in (*route.before, route.current)} == {
        1,
        2,
        3,
        4,
    }
    for number in range(6):
        assert registry.resolve(f"m@own-{number}").version == 1 + number % 4


def test_what_replicas_go_back_to_is_not_deleted(registry: Registry) -> None:
    root = registry.root
    promote(registry, "m:1", "live")
    change_route(root, "m", "live", lambda now: now and now.proved(now.current))
    promote(registry, "m:2", "live")
    with pytest.raises(RegistryError, match="go back to"):
        delete_version(registry, registry.resolve("m:1"))
    change_route(root, "m", "live", lambda now: now and now.proved(now.current))
    delete_version(registry, registry.resolve("m:1"))


def written(route: AliasDeployment) -> AliasDeployment:
    return route.model_copy(update={"generation": route.generation + 1})


def test_a_refusal_goes_back_to_what_proved_itself_last() -> None:
    one, two, three = (VersionRef(version=number, folder="a") for number in (1, 2, 3))
    route = written(written(written(AliasDeployment(current=one)).proved(one).to(two)).to(three))
    refusal = Refusal(stop=three, since=route.since, why="off by 0.3")
    back = written(route.refused_by(refusal))
    assert (back.current, back.before, back.settled) == (one, (), False)
    assert back.refused == refusal
    again = written(back.to(three))
    assert again.refused_by(refusal) == again, "that was an earlier promotion"
    assert route.proved(three).refused_by(refusal).current == three, "a replica answers with it"
    alone = AliasDeployment(current=three)
    told = alone.refused_by(Refusal(stop=three, since=alone.since, why="off"))
    assert told.current == three and told.refused is not None, "there is nothing to go back to"
