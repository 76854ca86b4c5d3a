"""A Ray that cannot start on this machine is one message, before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from ftray.cluster import connection as cluster
from ftray.cluster.folder import check_ray_folder, ray_folder
from ftray.errors import EXIT_FAILED, RunFailed


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing in the environment names a folder or a cluster."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def refused() -> str:
    with pytest.raises(RunFailed) as caught:
        cluster.connect()
    assert caught.value.exit_code == EXIT_FAILED
    assert not ray.is_initialized()
    (problem,) = caught.value.problems
    return str(problem)


def test_the_folder_is_where_ray_will_start(bare: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for names in ((), ("TMPDIR",), ("TMPDIR", "RAY_TMPDIR")):
        for name in names:
            bare.setenv(name, f"/tmp/{name}")
        assert str(ray_folder()) == get_default_ray_temp_dir()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_path_too_long_for_sockets_says_which_would_do(
    bare: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    bare.setenv(name, str(tmp_path / ("x" * 80)))
    said = refused()
    assert said.startswith(f"{name} = ")
    assert "characters too long" in said
    assert "Set RAY_TMPDIR to a short path" in said
    assert not list(tmp_path.iterdir())


def test_the_longest_path_that_ray_takes_is_taken(bare: pytest.MonkeyPatch) -> None:
    from ray._private.utils import validate_socket_filepath

    session = "/ray/session_2026-11-28_08-45-12_563273_4194304/sockets/plasma_store"
    longest = "/tmp/" + "x" * (107 - len(session) - len("/tmp/"))
    validate_socket_filepath(longest + session)
    bare.setenv("RAY_TMPDIR", longest)
    check_ray_folder()
    bare.setenv("RAY_TMPDIR", longest + "x")
    assert "1 characters too long" in refused()


def test_a_folder_that_cannot_be_written(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("RAY_TMPDIR", "/proc/self")
    assert "cannot write there" in refused()


def test_a_disk_that_takes_no_more() -> None:
    # A process whose files may have 100 KB stands for a disk that is nearly full.
    code = "from ftray.cluster.folder import check_ray_folder as c; c()"
    command = f"ulimit -f 100; exec {sys.executable} -c '{code}'"
    run = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "RAY_TMPDIR": "/tmp"}, capture_output=True
    )
    assert b"Ray cannot write there: File too large" in run.stderr


def test_what_ray_raises_as_it_starts_is_one_message(bare: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because")

    bare.setenv("RAY_TMPDIR", "/tmp")
    bare.setattr(ray, "init", init)
    said = refused()
    assert "did not start on this machine: The current node timed out during startup." in said
    assert "/tmp/ray/session_latest/logs" in said


def test_a_ray_that_a_busy_machine_starts_too_slowly_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = ["The current node timed out during startup. This could happen because …"]

    def init(**options: Any) -> str:
        if said:
            raise Exception(said.pop())  # noqa: TRY002 - as Ray does
        return "started"

    monkeypatch.setattr(ray, "init", init)
    assert cluster.start_ray(num_cpus=1) == "started"
    said.append("no space left")
    with pytest.raises(Exception, match="no space left"):
        cluster.start_ray()
