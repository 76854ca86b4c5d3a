"""What a Ray job takes along: ftray itself, the spec, and what the spec names on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftray
from ftray.errors import ClusterError, DataError
from ftray.spec.load import load, parse
from ftray.spec.schema import Spec
from ftray.store.files.pattern import expand
from ftray.submit import package, submit_job

Pack = Callable[[Spec], Spec]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the user is."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return tmp_path / "job"


@pytest.fixture
def pack(here: Path, job: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Packs a spec and returns the one in the package, read where the job will run."""

    def run(spec: Spec) -> Spec:
        package(spec, job)
        monkeypatch.chdir(job)
        return load("spec.yaml")

    return run


def spec(model: str = "OWNER/NAME", **sections: Any) -> Spec:
    data = {"train": "OWNER/DATA", **sections.pop("data", {})}
    return parse({"name": "m", "model": {"name_or_path": model}, "data": data, **sections})


def contents(value: Any) -> list[str]:
    """What the files that `value` names hold, seen from the package."""
    return [Path(location.path).read_text() for location in expand(value)]


def test_a_file_travels_and_the_spec_names_its_copy(here: Path, pack: Pack) -> None:
    (here / "rows.csv").write_text("rows")
    (here / "test.csv").write_text("test")
    packed = pack(spec(data={"train": "rows.csv", "test": str(here / "test.csv")}))
    (here / "rows.csv").unlink()
    (here / "test.csv").unlink()
    assert contents(packed.data.train) == ["rows"]
    assert contents(packed.data.test) == ["test"]
    assert packed.data.validation == 0.1


def test_a_home_folder_is_expanded(here: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "rows.csv").write_text("rows")
    assert contents(pack(spec(data={"train": "~/rows.csv"})).data.train) == ["rows"]


def test_folders_travel_whole(here: Path, job: Path, pack: Pack) -> None:
    (here / "reviews" / "good").mkdir(parents=True)
    (here / "reviews" / "good" / "1.txt").write_text("fine")
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("{}")
    packed = pack(spec("model", data={"train": "reviews/"}))
    assert (job / packed.data.train / "good" / "1.txt").read_text() == "fine"
    assert (job / packed.model.name_or_path / "config.json").read_text() == "{}"


def test_a_deepspeed_json_travels(here: Path, pack: Pack) -> None:
    (here / "zero.json").write_text("{}")
    assert contents(pack(spec(train={"deepspeed": "zero.json"})).train.deepspeed) == ["{}"]


def test_a_pattern_takes_the_files_it_matches(here: Path, pack: Pack) -> None:
    for name in ("part-1.csv", "part-2.csv", "other.csv"):
        (here / name).write_text(name)
    packed = pack(spec(data={"train": "part-*.csv"}))
    assert contents(packed.data.train) == ["part-1.csv", "part-2.csv"]


def test_files_of_one_name_in_several_folders_all_travel(here: Path, pack: Pack) -> None:
    for day in ("monday", "tuesday"):
        (here / day).mkdir()
        (here / day / "rows.csv").write_text(day)
    assert contents(pack(spec(data={"train": "*/rows.csv"})).data.train) == ["monday", "tuesday"]


def test_one_file_as_training_and_as_test_data(here: Path, pack: Pack) -> None:
    (here / "rows.csv").write_text("rows")
    packed = pack(spec(data={"train": "rows.csv", "test": "rows.csv"}))
    assert contents(packed.data.train) == contents(packed.data.test) == ["rows"]


@pytest.mark.parametrize(
    "name",
    [
        "s3://bucket/rows.csv",
        "gs://bucket/*.parquet",
        "package://ftray/py.typed",
        "file:///somewhere/rows.csv",
        "OWNER/NAME",
        "/only/on/the/cluster/rows.csv",
        "/only/on/the/cluster/*.csv",
    ],
)
def test_what_is_not_here_keeps_its_name(job: Path, pack: Pack, name: str) -> None:
    packed = pack(spec(name, data={"train": name, "test": name}, train={"deepspeed": name}))
    named = packed.model.name_or_path, packed.data.train, packed.data.test, packed.train.deepspeed
    assert set(named) == {name}
    assert not (job / "inputs").exists()


def test_the_rest_of_the_spec_stays(here: Path, pack: Pack) -> None:
    (here / "rows.csv").write_text("rows")
    before = spec(
        data={"train": "rows.csv"},
        storage="s3://bucket/root",
        train={"clip": None, "unfreeze": "all"},
        tune={"space": {"train.unfreeze": {"choice": [0, "all"]}}},
    )
    after = pack(before)
    assert after.model_copy(update={"data": before.data}) == before
    assert after.data.model_copy(update={"train": "rows.csv"}) == before.data


def test_ftray_itself_runs_in_the_package(job: Path, pack: Pack) -> None:
    pack(spec())
    assert not list(job.rglob("__pycache__"))
    found = subprocess.run(
        [sys.executable, "-c", "import ftray.cli.main; print(ftray.__file__, ftray.__version__)"],
        cwd=job,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(job / "ftray" / "__init__.py"), ftray.__version__]


def test_too_much_for_a_job_is_refused(here: Path, job: Path) -> None:
    with (here / "rows.csv").open("wb") as file:
        file.truncate(101 * 2**20)
    with pytest.raises(DataError) as caught:
        package(spec(data={"train": "rows.csv"}), job)
    (problem,) = caught.value.problems
    assert int(problem.value.removesuffix(" MiB")) >= 101
    assert "100 MiB" in problem.problem
    assert "URL" in problem.fix
    assert not (job / "spec.yaml").exists()


def test_without_an_address_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    spec = parse({"name": "m", "model": {"name_or_path": "x"}, "data": {"train": "a.csv"}})
    with pytest.raises(ClusterError) as caught:
        submit_job("train", spec, False, None, print)
    assert str(caught.value).startswith("--address: no cluster is named. Give the address")
