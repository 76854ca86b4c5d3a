"""The `ray up` files, the image and the scripts of cluster/, as far as reading them tells."""

import copy
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
LAUNCHER_FILES = ["on-prem.yaml", "aws.yaml"]
SCRIPTS = sorted(CLUSTER.glob("*.sh"))

# Ray's schema takes anything under `provider` and `node_config`, a misspelt key too.
PROVIDER_KEYS = {
    "local": {"type", "head_ip", "worker_ips"},
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes"},
}
NODE_KEYS = {
    "BlockDeviceMappings",
    "IamInstanceProfile",
    "ImageId",
    "InstanceMarketOptions",
    "InstanceType",
    "MetadataOptions",
}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def launcher_faults(config: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a `ray up` file, by Ray's own checks and by ours."""
    yield from schema_faults(config)
    provider = config["provider"]
    for key in provider.keys() - PROVIDER_KEYS[provider["type"]]:
        yield f"provider has unknown key {key}"
    for name, node_type in config.get("available_node_types", {}).items():
        yield from (
            f"{name} has unknown key {key}" for key in node_type["node_config"].keys() - NODE_KEYS
        )
        if node_type["node_config"].get("MetadataOptions") != {"HttpTokens": "required"}:
            yield f"{name}: anything that makes it fetch a URL can read its AWS credentials"
    for local in config["file_mounts"].values():
        if not local.startswith("~") and not (ROOT / local).exists():
            yield f"file_mounts: no {local} in the repository"
    yield from start_faults(config)


def schema_faults(config: dict[str, Any]) -> Iterator[str]:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (ValidationError, ValueError) as error:
        yield f"ray: {error}"


def start_faults(config: dict[str, Any]) -> Iterator[str]:
    head = " ".join(config["head_start_ray_commands"])
    workers = " ".join(config["worker_start_ray_commands"])
    if "~/.ray/auth_token" not in config["file_mounts"]:
        yield "file_mounts: the nodes do not get the token"
    for who, commands in {"head": head, "worker": workers}.items():
        if "RAY_AUTH_MODE=token" not in commands:
            yield f"{who}: starts without authentication"
        if "FTRAY_STORAGE=" not in commands:
            yield f"{who}: does not say where the storage root is"
    if "--dashboard-host" in head:
        yield "head: the dashboard is open to the network"
    if config["provider"]["type"] == "local" and "RAY_enable_autoscaler_v2=0" not in head:
        yield "head: workers of a local provider never join"


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_file_is_right(name: str) -> None:
    assert list(launcher_faults(load(name))) == []


def break_start(config: dict[str, Any], role: str, text: str, instead: str = "") -> None:
    key = f"{role}_start_ray_commands"
    config[key] = [command.replace(text, instead) for command in config[key]]


@pytest.mark.parametrize(
    ("name", "harm", "fault"),
    [
        ("aws.yaml", lambda c: c.update(max_worker=3), "ray: .*max_worker"),
        ("aws.yaml", lambda c: c.update(max_workers=1), "ray: .*max_workers"),
        ("aws.yaml", lambda c: c.update(head_node_type="big"), "ray: .*head_node_type"),
        ("aws.yaml", lambda c: c["provider"].update(regions="x"), "unknown key regions"),
        ("aws.yaml", lambda c: c["file_mounts"].update({"~/x": "no-such"}), "no no-such"),
        ("aws.yaml", lambda c: c["file_mounts"].pop("~/.ray/auth_token"), "do not get the token"),
        ("aws.yaml", lambda c: break_start(c, "head", "RAY_AUTH_MODE=token"), "head: starts"),
        ("aws.yaml", lambda c: break_start(c, "worker", "FTRAY_STORAGE"), "worker: does not say"),
        (
            "aws.yaml",
            lambda c: c["available_node_types"]["gpu"]["node_config"].update(InstanceTyp="x"),
            "gpu has unknown key InstanceTyp",
        ),
        (
            "aws.yaml",
            lambda c: c["available_node_types"]["head"]["node_config"].pop("MetadataOptions"),
            "head: anything that makes it fetch",
        ),
        (
            "on-prem.yaml",
            lambda c: break_start(c, "head", "RAY_enable_autoscaler_v2=0"),
            "never join",
        ),
        (
            "on-prem.yaml",
            lambda c: break_start(c, "head", "--head", "--head --dashboard-host=0.0.0.0"),
            "open to the network",
        ),
    ],
)
def test_launcher_faults_are_found(
    name: str, harm: Callable[[dict[str, Any]], None], fault: str
) -> None:
    config = load(name)
    harm(config)
    assert any(re.search(fault, found, re.DOTALL) for found in launcher_faults(config))


def test_gpu_workers_are_spot() -> None:
    gpu = load("aws.yaml")["available_node_types"]["gpu"]["node_config"]
    assert gpu["InstanceMarketOptions"] == {"MarketType": "spot"}


Stages = dict[str, tuple[str, list[str]]]


def stages(dockerfile: str) -> Stages:
    """Each stage's name, with what it is built from and its instructions."""
    text = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    found: Stages = {}
    before: list[str] = []
    instructions = before
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            instructions = []
            found[match[2]] = (_given(match[1], before), instructions)
        else:
            instructions.append(line)
    return found


def _given(image: str, arguments: list[str]) -> str:
    """The image that a FROM names, with the defaults of the file's arguments."""
    defaults = dict(line.removeprefix("ARG ").split("=", 1) for line in arguments)
    return defaults[image[1:]] if image.startswith("$") else image


def lineage(found: Stages, stage: str) -> list[str]:
    """The instructions of a stage and of those it is built upon, in order."""
    parent, instructions = found[stage]
    return [*(lineage(found, parent) if parent in found else []), *instructions]


def image_faults(dockerfile: str, ignore: str) -> Iterator[str]:
    found = stages(dockerfile)
    for target in ("train", "serve"):
        steps = lineage(found, target)
        users = [step.split()[1] for step in steps if step.startswith("USER")]
        if not users or not users[-1].startswith("1000"):
            yield f"{target}: does not run as uid 1000"
        if not any("install" in step and "wget" in step for step in steps):
            yield f"{target}: KubeRay's probes find no wget"
        if any("--requirement train.lock" in step for step in packages(found, steps)) != (
            target == "train"
        ):
            yield f"{target}: has the wrong packages"
    for parent, instructions in found.values():
        if parent not in found and not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", parent):
            yield f"{parent} is not pinned"
        yield from context_faults(instructions, ignore.splitlines())


def packages(found: Stages, steps: list[str]) -> list[str]:
    """The instructions of the stages that these steps copy from."""
    sources = [match[1] for step in steps if (match := re.match(r"COPY --from=(\S+)", step))]
    return [step for source in sources for step in lineage(found, source)]


def context_faults(instructions: list[str], ignore: list[str]) -> Iterator[str]:
    for step in instructions:
        if step.startswith("COPY") and "--from" not in step:
            for source in step.split()[1:-1]:
                if f"!{source}" not in ignore:
                    yield f"{source} is not in the build context"
        for command in step.split("pip install")[1:]:
            if "--no-deps" not in command:
                yield f"versions are left to chance: {step}"
            if "--requirement" in command and "--require-hashes" not in command:
                yield f"files are not compared with their hashes: {step}"


def image_files() -> tuple[str, str]:
    return (
        (CLUSTER / "Dockerfile").read_text(),
        (CLUSTER / "Dockerfile.dockerignore").read_text(),
    )


def test_image_is_right() -> None:
    assert list(image_faults(*image_files())) == []


@pytest.mark.parametrize(
    ("text", "instead", "fault"),
    [
        ("USER 1000:1000", "USER root", "train: does not run as uid 1000"),
        ("USER 1000:1000", "", "serve: does not run as uid 1000"),
        ("--no-install-recommends wget", "--no-install-recommends curl", "no wget"),
        ("--from=serve-packages", "--from=train-packages", "serve: has the wrong packages"),
        ("--from=train-packages", "--from=serve-packages", "train: has the wrong packages"),
        ("bookworm@sha256:", "bookworm:", "is not pinned"),
        ("COPY ftray ftray", "COPY . .", ". is not in the build context"),
        ("--no-deps --no-build-isolation .", ".", "versions are left to chance"),
        (
            "--require-hashes --requirement serve",
            "--requirement serve",
            "not compared with their hashes",
        ),
    ],
)
def test_image_faults_are_found(text: str, instead: str, fault: str) -> None:
    dockerfile, ignore = image_files()
    assert text in dockerfile
    found = list(image_faults(dockerfile.replace(text, instead), ignore))
    assert any(fault in one for one in found), found


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package -> its version, and the hashes of its files."""
    text = (CLUSTER / name).read_text()
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    found = {}
    for entry in entries:
        ((package, version),) = re.findall(r"\A([\w.-]+)==(\S+)", entry)
        found[package] = version, re.findall(r"--hash=(\S+)", entry)
    return found


@pytest.mark.parametrize("name", ["cuda.lock", "serve.lock", "train.lock"])
def test_locked_packages_have_hashes_and_the_versions_that_were_tested(name: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    tested = dict(line.lower().split("==") for line in lines if "==" in line)
    found = locked(name)
    assert found
    for package, (version, hashes) in found.items():
        assert tested.get(package, version) == version, package
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), package


def test_the_lock_files_have_what_ftray_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    serves = {**locked("serve.lock"), **locked("cuda.lock")}
    trains = {**serves, **locked("train.lock")}
    for needed, there in (
        (project["dependencies"], serves),
        (project["optional-dependencies"]["train"], trains),
    ):
        for one in needed:
            requirement = Requirement(one)
            version, _ = there[requirement.name]
            assert version in requirement.specifier, "run cluster/lock.py"


def test_build_context_starts_empty() -> None:
    lines = [line for line in image_files()[1].splitlines() if not line.startswith("#")]
    assert lines[0] == "*"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_script_passes_shellcheck(script: Path) -> None:
    subprocess.run(["shellcheck", script], check=True)


def two_nodes(verb: str, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CLUSTER_DIR": str(tmp_path / "c"), **settings}
    return subprocess.run(
        [CLUSTER / "two-nodes.sh", verb],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("verb", ["", "restart"])
def test_two_nodes_says_how_to_use_it(tmp_path: Path, verb: str) -> None:
    done = two_nodes(verb, tmp_path)
    assert done.returncode == 2
    assert "start|stop|status" in done.stderr


def test_two_nodes_names_the_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = two_nodes("start", Path("/tmp/ftray-never"), GCS_PORT="1", DASHBOARD_PORT=port)
    assert done.returncode == 1
    assert f"port {port} is in use; choose another with DASHBOARD_PORT=" in done.stderr
    assert not Path("/tmp/ftray-never").exists()


def test_two_nodes_refuses_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    done = two_nodes("start", tmp_path / ("x" * 40))
    assert done.returncode == 1
    assert "CLUSTER_DIR is too long" in done.stderr


def test_two_nodes_has_nothing_to_stop(tmp_path: Path) -> None:
    done = two_nodes("stop", tmp_path)
    assert done.returncode == 1
    assert "nothing runs in" in done.stderr


def test_a_node_that_gives_up_is_started_again(tmp_path: Path) -> None:
    """As Ray does on a busy machine; here `ray` is a script, whose first node ends at once."""
    fake = tmp_path / "bin" / "ray"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/usr/bin/env bash
        cd {tmp_path}
        case $1 in
          start) if mkdir tried 2>/dev/null; then exit 1; fi; touch alive.$$; exec sleep 100 ;;
          list) for each in $(ls alive.* 2>/dev/null); do echo '"node_id"'; done ;;
        esac
        """
    )
    fake.chmod(0o755)
    settings = {
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "CLUSTER_DIR": f"/tmp/ftray-{os.getpid()}",
        "RAY_AUTH_TOKEN": "x",
        **_ports(),
    }
    try:
        done = two_nodes("start", tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        assert len(list(tmp_path.glob("alive.*"))) == 2
    finally:
        two_nodes("stop", tmp_path, **settings)
        shutil.rmtree(settings["CLUSTER_DIR"])


def _ports() -> dict[str, str]:
    names = ("GCS_PORT", "DASHBOARD_PORT", "CLIENT_PORT")
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in names]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {n: str(p.getsockname()[1]) for n, p in zip(names, probes, strict=True)}
