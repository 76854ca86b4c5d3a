"""The builder's arguments, the model's own serve section, and how a refusal travels."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import ModelError, ServeError, SpecError
from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.models.artifact.publish import write_info
from ftray.serve.app import build
from ftray.serve.local.ports import check_port
from ftray.serve.settings import find, parse
from ftray.serve.startup_errors import read_refusal, refusal
from ftray.spec.load import parse as parse_spec
from ftray.spec.load import serving
from ftray.store.files.location import locate


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A model folder without weights: all that is read before anything is started."""
    spec = parse_spec(
        {
            "name": "reviews",
            "model": {"name_or_path": "base"},
            "data": {"train": "rows.csv"},
            "serve": {"replicas": {"min": 2, "max": 3}, "batch": {"max_size": 7}},
        }
    )
    info = ModelInfo(
        name="reviews",
        run="r",
        task=spec.task,
        labels=("a", "b"),
        max_length=8,
        base=spec.model,
        data_digest="0",
        spec=spec.model_dump(mode="json"),
        metrics={},
        golden=(),
        ftray_version="0",
    )
    write_info(tmp_path, info)
    return str(tmp_path)


def test_keys_left_out_are_as_in_the_models_spec(folder: str) -> None:
    (model,), spec = find(parse({"model": folder, "cpus_per_replica": 2}))
    assert (model.name, model.version, model.reference) == ("reviews", None, "reviews")
    assert (spec.replicas.min, spec.replicas.max, spec.batch.max_size) == (2, 3, 7)
    assert spec.cpus_per_replica == 2


def test_keys_of_an_inner_section_too(folder: str) -> None:
    given = {"replicas": {"max": 4}, "batch": {"wait_ms": 1}}
    _, spec = find(parse({"model": folder, **given}))
    assert (spec.replicas.min, spec.replicas.max) == (2, 4)
    assert (spec.batch.max_size, spec.batch.wait_ms) == (7, 1)


def test_overrides_are_of_the_section_serve() -> None:
    assert serving(["serve.backend=onnx", "serve.batch.max_size=4"]) == {
        "backend": "onnx",
        "batch": {"max_size": 4},
    }
    for wrong in ("train.epochs=2", "serve=3", "backend=onnx", "serve.backend"):
        with pytest.raises(SpecError, match="--set = "):
            serving([wrong])


def test_a_backend_for_labels_does_not_serve_a_model_that_generates(
    folder: str, tmp_path: Path
) -> None:
    writer = tmp_path / "writer"
    writer.mkdir()
    info = read_info(locate(folder))
    write_info(
        writer, info.model_copy(update={"name": "writer", "task": "text-generation", "labels": ()})
    )
    with pytest.raises(
        ServeError, match="backend = onnx: computes labels, and writer writes texts"
    ):
        find(parse({"model": [folder, str(writer)], "backend": "onnx"}))


def test_a_model_does_not_decide_who_may_ask(folder: str) -> None:
    """What its own spec says holds where nobody says otherwise, and only for its own machine."""
    info = read_info(locate(folder))
    serve = {**info.spec["serve"], "api_keys": "theirs.txt", "auth": False, "loopback": True}
    write_info(Path(folder), info.model_copy(update={"spec": {**info.spec, "serve": serve}}))
    _, spec = find(parse({"model": folder}))
    assert (spec.api_keys, spec.auth, spec.loopback) == ("theirs.txt", True, False)
    assert find(parse({"model": folder, "api_keys": "ours.txt"}))[1].api_keys == "ours.txt"
    assert find(parse({"model": folder, "auth": False}))[1].api_keys is None
    with pytest.raises(ServeError, match="nobody says who may ask"):
        build({"model": folder})
    build({"model": folder, "auth": False})
    build({"model": folder, "api_keys": "ours.txt"})
    with pytest.raises(ServeError, match="asked for by api_keys ours.txt, and auth is false"):
        parse({"model": folder, "auth": False, "api_keys": "ours.txt"})


def test_a_service_for_others_needs_keys_or_insistence(folder: str) -> None:
    asked = ["serve", folder, "--host", "0.0.0.0"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    assert "nobody says who may ask" in refused.stderr and "--no-auth" in refused.stderr
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        for allowed in ("--no-auth", "--set=serve.api_keys=keys.txt"):
            port = str(taken.getsockname()[1])
            other = CliRunner().invoke(app, [*asked, allowed, "--port", port])
            assert other.exit_code == 2
            assert "in use on 0.0.0.0" in other.stderr, "goes on to the next fault"


def test_several_models_are_served_as_the_first_one_says(folder: str) -> None:
    with pytest.raises(ServeError, match="named twice"):
        find(parse({"model": [folder, folder]}))
    (model,), spec = find(parse({"model": [folder]}))
    assert (model.name, spec.batch.max_size) == ("reviews", 7)


@pytest.mark.parametrize(
    ("args", "key", "said"),
    [
        ({}, "model", "missing"),
        ({"model": []}, "model", "at least 1"),
        ({"model": ["m", 3]}, "model.1", "must be text"),
        ({"model": "m", "replica": 2}, "replica", "Did you mean replicas?"),
        ({"model": "m", "batch": {"size": 2}}, "batch.size", "max_size"),
        ({"model": "m", "batch": {"max_size": 0}}, "batch.max_size", "above 0"),
        ({"model": "m", "cpus_per_replica": "many"}, "cpus_per_replica", "number"),
        ({"model": "m", "precision": "int8"}, "arguments", "torch does not compute in int8"),
        ({"model": "m", "replicas": {"min": 3, "max": 2}}, "replicas", "min 3 is above max 2"),
    ],
)
def test_a_wrong_argument_is_named(args: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(ServeError) as caught:
        parse(args)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert said in str(problem)


def test_every_wrong_argument_is_named_at_once() -> None:
    with pytest.raises(ServeError) as caught:
        parse({"model": "m", "typo": 1, "batch": {"wait_ms": -1}})
    assert {problem.key for problem in caught.value.problems} == {"typo", "batch.wait_ms"}


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no ftray\.json"):
        find(parse({"model": str(tmp_path)}))


def test_a_refusal_survives_as_text_within_a_traceback() -> None:
    error = ModelError.of("golden answers", 'a "text"\nof two lines', "off by 0.3", "export again")
    message = f"Traceback:\n  File ...\nRuntimeError: {refusal(error)}\nmore lines {{}}"
    found = read_refusal(message)
    assert isinstance(found, ModelError)
    assert found.problems == error.problems
    assert read_refusal("RuntimeError: out of memory") is None


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(ServeError, match="--host = no such host"):
        check_port("no such host", 8000)


def test_no_node_holds_more_replicas_than_it_may(folder: str) -> None:
    """As Ray Serve is told."""
    for given, told in (({}, None), ({"max_replicas_per_node": 1}, 1)):
        deployed = build({"model": folder, "auth": False, **given})._bound_deployment
        assert deployed._replica_config.max_replicas_per_node == told
    with pytest.raises(ServeError, match="max_replicas_per_node = 101"):
        parse({"model": folder, "max_replicas_per_node": 101})
