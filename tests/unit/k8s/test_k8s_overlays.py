"""What overlays over k8s/ change: the example, patches of pods, names and another spec."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.kubernetes.manifest_rules import all_faults
from tests.helpers.kubernetes.manifests import (
    K8S,
    Object,
    example,
    label,
    needs_kubectl,
    objects,
    only,
    overlay,
    pod_templates,
)

pytestmark = needs_kubectl
RAY_JOBS = ("RayJob/ftray-train", "RayJob/ftray-tune")


def images(documents: list[Object]) -> set[str]:
    return {
        container["image"]
        for document in documents
        for template in pod_templates(document).values()
        for container in template["spec"]["containers"]
    }


def test_the_example_of_an_overlay_is_what_the_readme_applies(tmp_path: Path) -> None:
    readme = (K8S / "README.md").read_text()
    assert "apply() { kubectl kustomize k8s/overlay | kubectl apply" in readme
    documents = objects(K8S / "overlay")
    assert images(documents) == {
        "registry.example.com/ftray-train:1",
        "registry.example.com/ftray-serve:1",
    }
    whole = objects(example(tmp_path))
    assert only("LimitRange", whole)["metadata"]["namespace"] == "ftray"
    [storage] = [one for one in whole if one["metadata"]["name"] == "ftray-storage"]
    assert storage["spec"]["storageClassName"] == "shared"
    added = {label(document) for document in whole} - {label(one) for one in documents}
    assert added == {"LimitRange/ftray-cpu"}


PATCH = """
patches:
  - target: {kind: PodTemplate, name: worker}
    patch: |-
      - {op: add, path: /template/spec/nodeSelector, value: {pool: ray}}
  - target: {kind: PodTemplate}
    patch: |-
      apiVersion: v1
      kind: PodTemplate
      metadata: {name: any}
      template:
        spec:
          containers: [{name: ray, env: [{name: HF_HUB_OFFLINE, value: "1"}]}]
"""


def test_patches_of_an_overlay_reach_the_pods(tmp_path: Path) -> None:
    documents = objects(overlay(tmp_path, PATCH))
    assert all_faults(documents) == []
    selected = {
        f"{label(document)} {where}"
        for document in documents
        for where, template in pod_templates(document).items()
        if template["spec"].get("nodeSelector") == {"pool": "ray"}
    }
    assert selected == {f"{name} workers" for name in (*RAY_JOBS, "RayCluster/ftray")}
    for document in documents:
        for where, template in pod_templates(document).items():
            env = template["spec"]["containers"][0]["env"]
            patched = {"name": "HF_HUB_OFFLINE", "value": "1"} in env
            assert patched == (document["kind"] != "Deployment"), f"{label(document)} {where}"


def test_names_with_prefix_and_suffix_are_found_by_whoever_asks_for_them(tmp_path: Path) -> None:
    overlay(tmp_path / "below", "nameSuffix: -blue")
    above = tmp_path / "above"
    above.mkdir()
    (above / "kustomization.yaml").write_text("resources: [../below]\nnamePrefix: a-\n")
    documents = objects(above)
    assert all_faults(documents) == []
    names = {document["metadata"]["name"] for document in documents} - {"ftray"}
    assert {"a-ftray-mlflow-blue", "a-movie-sentiment-blue"} <= names
    [container] = only("Deployment", documents)["spec"]["template"]["spec"]["containers"]
    # Kubernetes puts the value there.
    assert "--allowed-hosts=$(MLFLOW_HOST):*,localhost:*" in container["command"]
    assert {"name": "MLFLOW_HOST", "value": "a-ftray-mlflow-blue"} in container["env"]


def test_another_spec_leaves_what_serves_alone(tmp_path: Path) -> None:
    spec = (K8S / "parts" / "movie-sentiment.yaml").read_text()
    text = """
configMapGenerator:
  - {name: ftray-spec, namespace: ftray, behavior: replace, files: [movie-sentiment.yaml]}
"""
    before, after = (
        objects(overlay(tmp_path / name, text, **{"movie-sentiment": content}))
        for name, content in (("a", spec), ("b", spec.replace("epochs: 3", "epochs: 5")))
    )
    assert all_faults(after) == []
    changed = {label(old) for old, new in zip(before, after, strict=True) if old != new}
    assert {kind.partition("/")[0] for kind in changed} == {"ConfigMap", "RayCluster", "RayJob"}
