"""Uploads to the Hugging Face Hub: a server on loopback answers as the Hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import StorageError
from ftray.models.artifact.hub import push, repository
from tests.helpers.external.mlflow_server import free_port


class Hub(HTTPServer):
    """Keeps the files of each commit; `refuse` is the status that it answers with instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: list[dict[str, bytes]] = []
        self.made: list[dict[str, Any]] = []
        self.tokens: set[str] = set()
        self.refuse = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.refuse:
            self._answer({"error": "no right to write"}, hub.refuse)
        elif self.path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self._answer({"url": f"{hub.url}/me/m"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            self._answer({"files": files})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            hub.commits.append({f["path"]: base64.b64decode(f["content"]) for f in files})
            self._answer({"commitUrl": f"{hub.url}/me/m/commit/1", "commitOid": "1" * 40})

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_abc")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config.json", "ftray.json", "README.md"):
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


def test_a_folder_goes_up_in_one_commit_to_a_private_repository(hub: Hub, folder: Path) -> None:
    where = push(folder, "me/m", public=False, message="m:1 by ftray")
    assert where == f"{hub.url}/me/m/commit/1"
    (commit,) = hub.commits
    assert commit == {path.name: path.read_bytes() for path in folder.iterdir()}
    (made,) = hub.made
    assert made.get("private", made.get("visibility") == "private")
    assert hub.tokens == {"Bearer hf_abc"}


def test_a_hub_that_refuses_gives_one_line(hub: Hub, folder: Path) -> None:
    hub.refuse = 403
    with pytest.raises(StorageError, match=r"--to = hub://me/m: cannot be uploaded to.*HF_TOKEN"):
        push(folder, "me/m", public=True, message="")
    assert not hub.commits


def test_a_hub_that_is_not_there_gives_one_line(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match="cannot be uploaded to"):
        push(folder, "me/m", public=True, message="")


@pytest.mark.parametrize("name", ["m", "a/b/c", "me/ü", "me/..", ""])
def test_what_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(StorageError, match="hub://OWNER/NAME"):
        repository(f"hub://{name}")


def test_another_target_is_none_of_the_hubs() -> None:
    assert repository("s3://bucket/folder") is None
    assert repository("hub://me/my-model") == "me/my-model"
