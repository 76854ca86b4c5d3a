"""Passwords in URLs stay where the user wrote them; names in folders stay names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftray.errors import ModelError, SpecError, StorageError, masked
from ftray.models.artifact.manifest import read_info
from ftray.serve.interface import named
from ftray.spec.load import override, parse
from ftray.store.files.location import locate
from ftray.store.root import MODEL_MANIFEST, open_root
from ftray.store.runs.folder import RunFolder, new_run_id
from ftray.train.record.values import parameters
from tests.helpers.external.object_store import ObjectStore
from tests.helpers.serving.fake_backend import INFO, FakeBackend


def spec_of(**sections: Any) -> Any:
    tree = {
        "name": "reviews",
        "model": {"name_or_path": "s3://bucket/base"},
        "data": {"train": "s3://bucket/rows.csv", "test": "s3://b/t.csv"},
    }
    return parse({**tree, **sections})


def write(folder: Path, **values: Any) -> None:
    manifest = INFO.model_copy(update=values).model_dump_json()
    (folder / MODEL_MANIFEST).write_text(manifest)


def test_a_tree_is_masked_at_every_depth() -> None:
    tree = {"a": ["s3://K:S@b/x", {"b": "https://u:p@h/"}], "n": 3, "t": "a: b@c"}
    assert masked(tree) == {"a": ["s3://b/x", {"b": "https://h/"}], "n": 3, "t": "a: b@c"}


def test_no_message_about_a_spec_has_a_password() -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(name="s3://KEYID:sEcret@bucket/x", storage=["s3://KEYID:sEcret@bucket/y"])
    assert "bucket" in str(caught.value) and "sEcret" not in str(caught.value)


def test_a_spec_takes_no_password() -> None:
    spec = spec_of()
    files = {"train": ["s3://b/a.csv", "s3://KEYID:sEcret@b/b.csv"]}
    with pytest.raises(SpecError) as caught:
        spec_of(storage="s3://KEYID:sEcret@b/root", data=files)
    first, second = caught.value.problems
    assert (first.key, second.key) == ("data.train.1", "storage")
    assert second.value == "s3://b/root" and "AWS_SECRET_ACCESS_KEY" in second.fix
    assert "sEcret" not in str(caught.value)
    with pytest.raises(SpecError, match="has a password"):
        override(spec, {"model.name_or_path": "https://me:sEcret@hub/base"})


def test_mlflow_and_the_runs_folder_are_told_no_password(tmp_path: Path) -> None:
    """A spec that was made without `parse`, by a program."""
    spec = spec_of()
    spec = spec.model_copy(
        update={"data": spec.data.model_copy(update={"train": "s3://KEYID:sEcret@bucket/rows.csv"})}
    )
    assert "sEcret" not in json.dumps(parameters(spec)) and "KEYID" not in str(parameters(spec))
    run = RunFolder.create(open_root(str(tmp_path)), spec, new_run_id(spec))
    content = (run.location / "spec.yaml").read_bytes().decode()
    assert yaml.safe_load(content)["data"]["train"] == "s3://bucket/rows.csv"
    assert "sEcret" not in content


@pytest.mark.parametrize(
    "name", ["a\r\nset-cookie: x", "../../etc", "a/b", "", ".hidden", "a" * 200]
)
def test_a_folders_name_is_a_name(name: str, tmp_path: Path) -> None:
    write(tmp_path, name=name)
    with pytest.raises(ModelError, match="its name is"):
        read_info(locate(str(tmp_path)))


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_folders_files_are_in_it(file: str, tmp_path: Path) -> None:
    write(tmp_path, files={file: "0" * 16})
    with pytest.raises(ModelError, match="outside of its folder"):
        read_info(locate(str(tmp_path)))


def test_no_name_ends_a_header() -> None:
    told = named(FakeBackend("a\r\nset-cookie: x\u2028ü"))
    assert "\n" not in str(told.values()) and told["x-ftray-model"].isprintable()


def test_an_object_does_not_leave_the_folder_that_it_is_copied_to(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    import boto3

    options = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=object_store.endpoint, region_name="x", **options)
    for key in ("root/model/ftray.json", "root/model/../../evil"):
        client.put_object(Bucket=object_store.bucket, Key=key, Body=b"{}")
    with pytest.raises(StorageError, match="leads out of the folder"):
        locate(object_store.url("root/model")).download(tmp_path / "deep" / "model")
    assert not (tmp_path / "evil").exists()
