"""Promoting, trying out and rolling back: what the registry says, and what serving follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import RegistryError
from ftray.store.promotion import find_route, promote, roll_back, try_out
from ftray.store.registry import Registry, alias_in
from ftray.store.root import MODEL_MANIFEST, Root, open_root
from ftray.store.routes import Route, Stop, Trial, change_route, end_trial, read_route


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Four versions of one model."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = open_root(str(tmp_path / "storage"))
    registry = Registry.open(root)
    for number in range(1, 5):
        folder = root.models("m") / f"run-{number}"
        (folder / MODEL_MANIFEST).write_json({"name": "m"})
        registry.register("m", folder, f"run-{number}", {"accuracy": 0.5})
    return registry


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
        assert promote(registry, f"m:{number}", "live").aliases == ("live",)
        assert served(root) == (number, None)
    assert roll_back(registry, "m", "live").version == 2
    assert registry.resolve("m@live").version == 2
    assert roll_back(registry, "m", "live").version == 1
    assert served(root) == (1, None)
    with pytest.raises(RegistryError, match="has always been version 1"):
        roll_back(registry, "m", "live")
    assert promote(registry, "m:4", "other").aliases == ("other",)
    assert served(root) == (1, None)


def test_a_trial_is_promoted_or_ended(registry: Registry) -> None:
    root = registry.root
    promote(registry, "m:1", "live")
    try_out(registry, "m:2", "live", 0.1, shadow=False)
    assert served(root) == (1, 2) and registry.resolve("m@live").version == 1
    assert roll_back(registry, "m", "live").version == 1
    assert served(root) == (1, None)
    try_out(registry, "m:3", "live", 1.0, shadow=True)
    promote(registry, "m:3", "live")
    assert served(root) == (3, None)
    assert roll_back(registry, "m", "live").version == 1


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
    old = Trial(stop=Stop(version=2, folder="models/m/run-2"), share=0.1)
    try_out(registry, "m:3", "live", 0.1, shadow=False)
    end_trial(root, "m", "live", old, "too slow")
    assert served(root) == (1, 3)
    found = read_route(root, "m", "live")
    assert found is not None and found.trial is not None
    end_trial(root, "m", "live", found.trial, "too slow")
    ended = read_route(root, "m", "live")
    assert ended is not None and (ended.trial, ended.ended) == (None, "too slow")


def test_the_registry_is_right_where_other_tools_changed_it(registry: Registry) -> None:
    promote(registry, "m:1", "live")
    registry.point("live", registry.resolve("m:4"))
    found = find_route(registry, "m", "live")
    assert found is not None and found.current.version == 4
    assert served(registry.root) == (4, None)
    assert roll_back(registry, "m", "live").version == 1
    assert find_route(registry, "m", "nothing") is None


def test_a_broken_file_is_named(registry: Registry) -> None:
    registry.root.routes("m").write_text('{"routes": {"live": 3}}')
    with pytest.raises(RegistryError, match=r"routes/m\.json"):
        read_route(registry.root, "m", "live")


def test_history_is_kept_within_bounds(registry: Registry) -> None:
    route = Route(current=Stop(version=1, folder="a"))
    for number in range(2, 200):
        route = route.to(Stop(version=number, folder="a"))
    assert len(route.before) == 50 and route.back().current.version == 198
    change_route(registry.root, "m", "x", lambda known: route)
    assert read_route(registry.root, "m", "x") == route


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
