"""Which settings travel with a run, and how."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from ftray.cluster import environment

CARRIED = {
    "HF_TOKEN": "hf_secret",
    "HF_HUB_OFFLINE": "1",
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_ENDPOINT_URL": "http://storage:9000",
    "AWS_REGION": "eu-west-1",
    "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    "MLFLOW_TRACKING_PASSWORD": "secret",
}
LEFT = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "AWS_PROFILE": "mine",
    "AWS_SHARED_CREDENTIALS_FILE": "/home/me/credentials",
    "AWS_CA_BUNDLE": "/etc/ca.pem",
    "AWS_ROLE_ARN": "arn:aws:iam::1:role/pod",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "/etc/mlflow.pem",
    "OPENAI_API_KEY": "sk-other",
}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A shell in an empty folder, without any of the settings."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_what_gives_access_travels_and_what_names_this_machine_stays() -> None:
    assert environment.settings({**CARRIED, **LEFT}) == CARRIED


def test_a_process_without_settings_has_no_hook(shell: pytest.MonkeyPatch) -> None:
    assert environment.setup_hook() is None


def test_a_worker_takes_the_settings_without_importing_ftray(shell: pytest.MonkeyPatch) -> None:
    shell.setenv("HF_TOKEN", "hf_secret")
    shell.setenv("AWS_ACCESS_KEY_ID", "mine")
    pickled = cloudpickle.dumps(environment.setup_hook())
    shell.setitem(sys.modules, "ftray", None)
    shell.setitem(sys.modules, "ftray.cluster.environment", None)
    shell.delenv("HF_TOKEN")
    shell.setenv("AWS_ACCESS_KEY_ID", "of the node")
    shell.setenv("AWS_SESSION_TOKEN", "of the node")
    cloudpickle.loads(pickled)()
    assert os.environ["HF_TOKEN"] == "hf_secret"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "mine"
    assert "AWS_SESSION_TOKEN" not in os.environ, "it belongs to other keys"


def test_a_job_finds_the_settings_in_its_package_and_deletes_them(
    shell: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shell.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    environment.pack(tmp_path)
    file = tmp_path / environment.FILE
    assert file.stat().st_mode & 0o077 == 0
    shell.delenv("AWS_SECRET_ACCESS_KEY")
    environment.unpack()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert not file.exists()


def test_no_two_packages_are_the_same(shell: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        environment.pack(tmp_path / name)
        contents.append((tmp_path / name / environment.FILE).read_text())
    assert contents[0] != contents[1]
    assert json.loads(contents[0])["settings"] == {}
