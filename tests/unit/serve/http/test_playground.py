"""The files of the page at `/`: which are served, to whom, and what they hold."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import get_args

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from ftray.serve.http.app import create_api
from ftray.serve.http.auth import add_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.http.playground.routes import FILES, PATHS
from ftray.serve.ops.metrics import Metrics
from ftray.store.files.location import locate
from ftray.tasks import TASKS
from ftray.tasks.info import FIELDS, Output
from tests.helpers.serving.fake_backend import FakeBackends

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "ftray" / "serve" / "http" / "playground"
SCRIPTS = [name for name in FILES if name.endswith(".js")]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics("one")


@pytest.fixture(scope="module")
def client(metrics: Metrics) -> Iterator[TestClient]:
    with TestClient(create_api(FakeBackends(), metrics)) as client:
        yield client


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_served_with_its_type(client: TestClient, name: str) -> None:
    answer = client.get(f"/playground/{name}")
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.content == (FOLDER / name).read_bytes()


def raw_status(client: TestClient, path: str) -> int:
    """The status of the answer for a path as the server gets it, once it has read the escapes: a
    client puts the dots in order before."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    scope = {
        **{"type": "http", "method": "GET", "path": path, "raw_path": path.encode()},
        **{"headers": [], "query_string": b"", "root_path": "", "http_version": "1.1"},
        **{"scheme": "http", "server": ("testserver", 80), "client": ("testclient", 80)},
    }
    asyncio.run(client.app(scope, receive, send))
    return statuses[0]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "index.html",
        "routes.py",
        "__init__.py",
        "nothing.js",
        "app.js/",
        "/app.js",
        "./app.js",
        "APP.JS",
        "widgets",
        "widgets/../app.js",
        "../app.py",
        "../playground/app.js",
        "widgets/../../../app.py",
        "..\\app.py",
        "/etc/passwd",
        "../../../../../../../../etc/passwd",
        "app.js\0",
        "%2e%2e/app.py",
    ],
)
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    assert raw_status(client, "/playground/app.js") == 200
    assert raw_status(client, f"/playground/{name}") == 404


def test_an_escaped_path_leads_nowhere(client: TestClient) -> None:
    for name in ("%2e%2e%2fapp.py", "..%2fapp.py", "widgets%2f..%2fapp.js", "%2fetc%2fpasswd"):
        answer = client.get(f"/playground/{name}")
        assert answer.status_code == 404
        assert "no such path" in answer.json()["error"]["message"]


def test_the_page_and_its_files_need_no_key(tmp_path: Path) -> None:
    file = locate(str(tmp_path / "keys.txt"))
    add_key(file, "me")
    api = create_api(FakeBackends(), Metrics("one"), Keyring(file), max_requests=0)
    with TestClient(api) as client:
        for path in PATHS:
            assert client.get(path).status_code == 200, "however many requests are in hand"
        assert client.get("/playground/routes.py").status_code == 401
        assert client.get("/v1/models").status_code == 401


def test_the_files_are_counted_together(client: TestClient, metrics: Metrics) -> None:
    client.get("/playground/app.js")
    samples = [sample for family in metrics.snapshot([], 0) for sample in family.samples]
    paths = {sample.labels.get("path", "") for sample in samples}
    assert "/playground" in paths
    assert not any(path.startswith("/playground/") for path in paths)


def test_every_file_of_the_folder_is_served() -> None:
    there = {
        f.relative_to(FOLDER).as_posix() for f in FOLDER.rglob("*") if f.suffix in (".js", ".css")
    }
    assert there == set(FILES)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_files_of_the_page_alone(name: str) -> None:
    script = (FOLDER / name).read_text()
    for imported in re.findall(r'from "([^"]*)"', script):
        assert imported.startswith("."), "relative, so that it works behind a prefix"
        assert normpath(join(dirname(name), imported)) in SCRIPTS
    assert not re.search(r"import\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write", script)
    assert not re.search(r"\beval\(|new Function|https?://|setAttribute\(\"style", script)


def test_every_kind_has_a_widget() -> None:
    registry = (FOLDER / "widgets" / "registry.js").read_text()
    inputs, outputs = (
        {
            part.split(":")[0].strip()
            for part in re.findall(rf"{name} = {{(.*)}}", registry)[0].split(",")
        }
        for name in ("INPUTS", "OUTPUTS")
    )
    infos = [task.info for task in TASKS.values()]
    asked = {kind for info in infos for form in info.forms for kind in info.inputs(form).values()}
    assert outputs == set(get_args(Output))
    assert (asked - {"record"}) | FIELDS <= inputs


def test_a_wheel_has_the_files(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "ftray", source / "ftray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"ftray/serve/http/playground/{name}" for name in ("index.html", *FILES)} <= held
