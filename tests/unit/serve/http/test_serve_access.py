"""API keys: made once, kept as hashes, revoked while the service runs."""

from __future__ import annotations

import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import ServeError, StorageError
from ftray.serve.http import keyring
from ftray.serve.http.app import create_api
from ftray.serve.http.auth import add_key, read_keys, revoke_key
from ftray.serve.http.keyring import Keyring
from ftray.serve.ops.metrics import Metrics
from ftray.store.files.location import Location, locate
from tests.helpers.serving.fake_backend import FakeBackends


@pytest.fixture
def file(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "keys.txt"))


def bearer(key: str) -> str:
    return f"Bearer {key}"


def status(keys: Keyring, authorization: str, scope: str = "predict") -> int:
    return keys.judge(authorization, scope).status


def test_a_key_admits_until_it_is_revoked(file: Location) -> None:
    first, second = add_key(file, "app"), add_key(file, "batch")
    keys = Keyring(file)
    assert keys.judge(bearer(first), "predict").name == "app"
    assert status(keys, bearer(second)) == 200
    for wrong in ("", first, f"Basic {first}", bearer(first[:-1]), bearer("app"), bearer("")):
        assert status(keys, wrong) == 401
    revoke_key(file, "app")
    keys.refresh()
    assert status(keys, bearer(first)) == 401
    assert status(keys, bearer(second)) == 200
    third = add_key(file, "third")
    keys.refresh()
    assert status(keys, bearer(third)) == 200
    assert list(read_keys(file)) == ["batch", "third"]


def test_the_file_holds_no_key(file: Location) -> None:
    key = add_key(file, "app")
    assert key not in file.read_bytes().decode()
    assert key.removeprefix("ftray-") not in file.read_bytes().decode()


def test_a_hash_of_the_file_is_no_key(file: Location) -> None:
    add_key(file, "app")
    (key,) = read_keys(file).values()
    assert status(Keyring(file), bearer(key.hash)) == 401


def test_a_file_that_is_torn_changes_nothing_and_one_that_is_gone_revokes(file: Location) -> None:
    key = add_key(file, "app")
    keys, content = Keyring(file), file.read_bytes()
    file.write_text("app sha256:12")
    keys.refresh()
    assert (status(keys, bearer(key)), status(keys, bearer("other"))) == (200, 401)
    file.delete()
    keys.refresh()
    assert status(keys, bearer(key)) == 401
    file.write_bytes(content)
    keys.refresh()
    assert status(keys, bearer(key)) == 200


def test_a_storage_that_hangs_holds_up_nobody(
    file: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "_EVERY_S", 0.001)
    key = add_key(file, "app")
    keys, asked, answers = Keyring(file), threading.Event(), threading.Event()

    def hang(location: Location) -> bytes:
        asked.set()
        answers.wait()
        raise StorageError.of("s3://bucket", None, "does not answer", "wait")

    with monkeypatch.context() as patched:
        patched.setattr(Location, "read_bytes", hang)
        keys.follow()
        assert asked.wait(60)
        began = time.monotonic()
        assert status(keys, bearer(key)) == 200
        assert time.monotonic() - began < 20, "the storage never answers"
        answers.set()
    revoke_key(file, "app")
    end = time.monotonic() + 60
    while status(keys, bearer(key)) == 200 and time.monotonic() < end:
        time.sleep(0.01)
    assert status(keys, bearer(key)) == 401, "the thread goes on"


def test_comments_stay_and_the_file_is_its_owners_alone(file: Location) -> None:
    path = Path(file.path)
    path.write_text("# ours\n\n")
    path.chmod(0o644)
    add_key(file, "app")
    with path.open("a") as stream:
        stream.write("# theirs")
    add_key(file, "other", ["metrics"], 5)
    revoke_key(file, "app")
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# ours", "", "# theirs"]
    assert lines[3].startswith("other sha256:") and lines[3].endswith(
        " scopes=metrics per_minute=5"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_that_are_made_at_once_are_all_kept(file: Location) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_key(file, f"key{number}"), range(24)))
    assert len(read_keys(file)) == 24


def test_a_key_is_for_its_scopes_and_as_often_as_it_says(
    file: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(keyring.time, "monotonic", lambda: now)
    watcher, app_key = add_key(file, "watcher", ["metrics"]), add_key(file, "app", ["predict"], 30)
    keys = Keyring(file)
    assert status(keys, bearer(watcher), "metrics") == 200
    assert status(keys, bearer(watcher), "predict") == 403
    assert status(keys, bearer(app_key), "metrics") == 403
    assert [status(keys, bearer(app_key)) for _ in range(31)] == [200] * 30 + [429]
    assert keys.judge(bearer(app_key), "predict").headers == {"retry-after": "2"}
    now += 2
    assert [status(keys, bearer(app_key)) for _ in range(2)] == [200, 429]
    assert status(keys, bearer(watcher), "metrics") == 200, "others have quotas of their own"


def test_the_request_log_names_the_key(file: Location, caplog: pytest.LogCaptureFixture) -> None:
    key = add_key(file, "app")
    api = create_api(FakeBackends(), Metrics("one"), Keyring(file))
    with TestClient(api) as client, caplog.at_level("INFO"):
        client.get("/v1/model", headers={"authorization": bearer(key)})
        client.get("/v1/model")
    (record,) = [r for r in caplog.records if hasattr(r, "api_key")]
    assert (record.api_key, record.getMessage()) == ("app", "GET /v1/model 200")
    assert key not in caplog.text


def test_the_document_says_what_needs_a_key(file: Location) -> None:
    key = add_key(file, "app")
    with TestClient(create_api(FakeBackends(), Metrics("one"), Keyring(file))) as client:
        told = client.get("/openapi.json", headers={"authorization": bearer(key)}).json()
    (scheme,) = told["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert told["security"] == [{"key": []}]
    assert told["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in told["paths"]["/v1/predict"]["post"]
    with TestClient(create_api(FakeBackends(), Metrics("one"))) as client:
        assert "security" not in client.get("/openapi.json").json()


@pytest.mark.parametrize("name", ["", "a b", "-x", "a" * 64, "ü", "a/b"])
def test_a_wrong_name_makes_no_key(file: Location, name: str) -> None:
    with pytest.raises(ServeError):
        add_key(file, name)
    assert not file.exists()


def test_what_cannot_be_read_is_told_with_its_line(file: Location) -> None:
    with pytest.raises(ServeError, match="no such file"):
        Keyring(file)
    file.write_text("# ours\n\napp sha256:" + "0" * 64 + "\nan open key\n")
    with pytest.raises(ServeError, match="line 4"):
        Keyring(file)


def test_the_endpoint_asks_for_a_key_and_health_does_not(file: Location) -> None:
    key = add_key(file, "app")
    api = create_api(FakeBackends(), Metrics("one"), Keyring(file))
    with TestClient(api) as client:
        for path in ("/", "/healthz", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for path in ("/v1/model", "/metrics", "/v2/models/reviews", "/openapi.json", "/nothing"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "Authorization" in str(refused.json()["error"])
        asked = {"inputs": ["dull"]}
        assert client.post("/v1/predict", json=asked).status_code == 401
        headers = {"authorization": bearer(key)}
        assert client.post("/v1/predict", json=asked, headers=headers).status_code == 200


def test_the_command_shows_a_key_once(tmp_path: Path) -> None:
    file, run = str(tmp_path / "keys.txt"), CliRunner().invoke
    made = run(app, ["keys", "add", "app", "--file", file])
    key = made.stdout.splitlines()[-1]
    assert status(Keyring(locate(file)), bearer(key)) == 200
    assert run(app, ["keys", "list", "--file", file]).stdout == "app\n"
    assert run(app, ["keys", "add", "app", "--file", file]).exit_code == 2
    assert run(app, ["keys", "revoke", "other", "--file", file]).exit_code == 2
    assert run(app, ["keys", "revoke", "app", "--file", file]).exit_code == 0
    assert status(Keyring(locate(file)), bearer(key)) == 401
