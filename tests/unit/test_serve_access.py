"""API keys: made once, kept as hashes, revoked while the service runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import ServeError
from ftray.serve import access
from ftray.serve.access import Keyring, add_key, read_keys, revoke_key
from ftray.serve.api import create_api
from ftray.serve.metrics import Metrics
from ftray.store.location import Location, locate
from tests.helpers.fake_backend import FakeBackends


@pytest.fixture
def file(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "keys.txt"))


@pytest.fixture(autouse=True)
def _read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_FRESH_S", 0.0)


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_a_key_admits_until_it_is_revoked(file: Location) -> None:
    first, second = add_key(file, "app"), add_key(file, "batch")
    keys = Keyring(file)
    assert keys.admits(bearer(first)) and keys.admits(bearer(second))
    for wrong in ("", first, f"Basic {first}", bearer(first[:-1]), bearer("app"), bearer("")):
        assert not keys.admits(wrong)
    revoke_key(file, "app")
    assert not keys.admits(bearer(first))
    assert keys.admits(bearer(second))
    third = add_key(file, "third")
    assert keys.admits(bearer(third))
    assert list(read_keys(file)) == ["batch", "third"]


def test_the_file_holds_no_key(file: Location) -> None:
    key = add_key(file, "app")
    assert key not in file.read_bytes().decode()
    assert key.removeprefix("ftray-") not in file.read_bytes().decode()


def test_a_hash_of_the_file_is_no_key(file: Location) -> None:
    add_key(file, "app")
    (hash_,) = read_keys(file).values()
    assert not Keyring(file).admits(bearer(hash_))


def test_a_file_that_is_gone_or_torn_changes_nothing(file: Location) -> None:
    key = add_key(file, "app")
    keys = Keyring(file)
    for content in (None, "app sha256:12"):
        file.delete()
        if content is not None:
            file.write_text(content)
        assert keys.admits(bearer(key))
        assert not keys.admits(bearer("other"))


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
    assert Keyring(locate(file)).admits(bearer(key))
    assert run(app, ["keys", "list", "--file", file]).stdout == "app\n"
    assert run(app, ["keys", "add", "app", "--file", file]).exit_code == 2
    assert run(app, ["keys", "revoke", "other", "--file", file]).exit_code == 2
    assert run(app, ["keys", "revoke", "app", "--file", file]).exit_code == 0
    assert not Keyring(locate(file)).admits(bearer(key))
