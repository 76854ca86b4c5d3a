"""What k8s/ builds, by itself and below overlays: neither the API server nor the KubeRay operator
would refuse the result."""

from __future__ import annotations

import copy
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftray.spec.schema import Spec
from tests.helpers.kubernetes.manifest_rules import all_faults, faults, reference_faults
from tests.helpers.kubernetes.manifests import (
    BASE,
    K8S,
    Object,
    cluster_spec,
    example,
    label,
    needs_kubectl,
    objects,
    only,
)

CRD_SCHEMAS = os.environ.get("KUBERAY_CRD_SCHEMAS")

pytestmark = needs_kubectl


def test_manifests_are_right(tmp_path: Path) -> None:
    for folder in (BASE, K8S / "overlay", example(tmp_path)):
        assert all_faults(objects(folder)) == [], folder


def test_base_has_what_it_takes() -> None:
    kinds = [label(document) for document in objects()]
    for expected in (
        "RayCluster/ftray",
        "RayJob/ftray-train",
        "RayJob/ftray-tune",
        "RayService/movie-sentiment",
        "Deployment/ftray-mlflow",
        "Service/ftray-mlflow",
    ):
        assert expected in kinds
    assert not any(kind.startswith("PodTemplate/") for kind in kinds)


def test_everything_is_in_the_namespace_and_selectable() -> None:
    for document in objects():
        metadata = document["metadata"]
        component = metadata["labels"]["app.kubernetes.io/component"]
        assert component in {"platform", "cluster", "train", "tune", "serve"}
        assert document["kind"] == "Namespace" or metadata["namespace"] == "ftray"


def test_spec_is_one_that_ftray_takes() -> None:
    for text in only("ConfigMap")["data"].values():
        spec = Spec.model_validate(yaml.safe_load(text))
        assert spec.tune is not None
        service = only("RayService")["spec"]["serveConfigV2"]
        args = yaml.safe_load(service)["applications"][0]["args"]
        # What a training ends with is what is served.
        assert args["model"] == f"{spec.name}@{spec.train.promote}"


def test_ray_is_the_version_that_is_installed() -> None:
    import ray

    versions = {spec["rayVersion"] for spec in map(cluster_spec, objects()) if spec}
    assert versions == {ray.__version__}


def put(document: Object, path: str, value: Any) -> None:
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = document
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value


JOB_POD = "spec.rayClusterSpec.headGroupSpec.template.spec"
WORKERS = "spec.workerGroupSpecs.0"
SERVING = "spec.rayClusterConfig.headGroupSpec.template.spec"
PLACED = (
    ", auth: false, cpus_per_replica: %s, max_replicas_per_node: %s, replicas: {min: 2, max: %s}"
)
ALIASED = ", auth: false, model: m@live"
SERVE = """
applications:
  - {name: a, import_path: "ftray.serve.app:build", args: {model: m, storage: s%s}%s}
"""


@pytest.mark.parametrize(
    ("kind", "path", "value", "fault"),
    [
        ("Service", "spec.ports.0.prot", 1, "'prot' was unexpected"),
        ("Deployment", "spec.template.spec.containers.0.imag", "x", "'imag' was unexpected"),
        ("RayJob", f"{JOB_POD}.containers.0.ports.0.containerPort", "x", "head: 'x'"),
        ("RayJob", f"{JOB_POD}.containers.0.commands", [], "head: .*'commands' was unexpected"),
        ("RayCluster", "metadata.name", "r" * 54, "longer than 53"),
        ("RayService", "metadata.name", "r" * 48, "longer than 47"),
        ("RayCluster", "metadata.name", "9lives", "DNS-1035"),
        ("RayCluster", f"{WORKERS}.minReplicas", 3, "workers: replicas outside"),
        ("RayCluster", f"{WORKERS}.maxReplicas", 1, "workers: replicas outside"),
        ("RayJob", "spec.submissionMode", "K8SJobMode", "unknown submissionMode"),
        ("RayJob", "spec.submissionMode", "SidecarMode", "takes no submitterPodTemplate"),
        ("RayJob", "spec.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished without"),
        ("RayJob", "spec.submitterPodTemplate.spec.restartPolicy", "Always", "started again"),
        ("RayJob", "spec.rayClusterSpec.authOptions.mode", "disabled", "can run code on it"),
        ("RayCluster", "spec.authOptions", None, "can run code on it"),
        ("RayCluster", "spec.rayVersion", "2.9.3", "knows no tokens"),
        (
            "RayService",
            "spec.rayClusterConfig.headGroupSpec.template.spec.automountServiceAccountToken",
            None,
            "cannot speak to the API server",
        ),
        (
            "RayService",
            "spec.rayClusterConfig.workerGroupSpecs.0.template.spec.restartPolicy",
            "Always",
            "wants restartPolicy Never",
        ),
        (
            "RayService",
            "spec.rayClusterConfig.autoscalerOptions.securityContext",
            None,
            "autoscaler: container is not hardened",
        ),
        (
            "RayService",
            "spec.rayClusterConfig.autoscalerOptions.volumeMounts.0.name",
            "logs",
            "head: no volume for mount logs",
        ),
        ("RayJob", f"{JOB_POD}.securityContext.runAsUser", 0, "head: may run as root"),
        ("RayJob", f"{JOB_POD}.securityContext.seccompProfile", None, "head: no seccomp"),
        (
            "RayJob",
            "spec.submitterPodTemplate.spec.containers.0.securityContext",
            None,
            "submitter: container ray is not hardened",
        ),
        (
            "Deployment",
            "spec.template.spec.containers.0.securityContext.readOnlyRootFilesystem",
            False,
            "container mlflow is not hardened",
        ),
        ("RayCluster", f"{WORKERS}.template.spec.volumes.0", None, "workers: no volume for mount"),
        ("RayService", "spec.serveConfigV2", "applications: 3", "serveConfigV2: .*applications"),
        ("RayService", "spec.serveConfigV2", SERVE % ("", ", route: /"), "applications.route"),
        (
            "RayService",
            "spec.serveConfigV2",
            SERVE % ("", "") + "http_options: {prot: 1}",
            "unknown key http_options.prot",
        ),
        ("RayService", "spec.serveConfigV2", SERVE % (", batches: {}", ""), "batches"),
        (
            "RayService",
            "spec.serveConfigV2",
            SERVE.replace("app:build", "app:make") % ("", ""),
            "nothing to import",
        ),
        (
            "RayService",
            "spec.serveConfigV2",
            SERVE.replace("storage: s", "") % ("", ""),
            "args lack model or storage",
        ),
        (
            "RayCluster",
            f"{WORKERS}.template.spec.containers.0.imagePullPolicy",
            "Always",
            "workers: which images are pulled",
        ),
        (
            "RayService",
            "spec.rayClusterConfig.autoscalerOptions.imagePullPolicy",
            None,
            "autoscaler: which images are pulled",
        ),
        ("RayJob", f"{JOB_POD}.containers.0.ports.0.protocol", None, "port 6379 names no"),
        ("Service", "spec.ports.0.protocol", None, "port 5000 names no protocol"),
        (
            "Deployment",
            "spec.template.spec.containers.0.startupProbe",
            None,
            "slow first start is taken for a failure",
        ),
        ("RayService", "spec.serveConfigV2", SERVE % (PLACED % (1, 1, 4), ""), "not as large"),
        ("RayService", "spec.serveConfigV2", SERVE % (PLACED % (2, 2, 4), ""), "two replicas may"),
        ("RayService", "spec.serveConfigV2", SERVE % (PLACED % (2, 1, 5), ""), "more replicas"),
        (
            "RayService",
            "spec.serveConfigV2",
            SERVE % (", auth: false, model: m@live", ""),
            "fails for good",
        ),
        (
            "RayService",
            f"{SERVING}.containers.0.env.0.value",
            "0",
            "head: RAY_SERVE_ENABLE_HA_PROXY is not set",
        ),
        (
            "RayService",
            f"{SERVING}.volumes.0",
            {"name": "data", "configMap": {"name": "x"}},
            "head: another spec would replace what serves",
        ),
        (
            "Deployment",
            "spec.template.spec.containers.0.env.1.value",
            "other",
            "pod: no Service other",
        ),
        ("RayJob", "spec.entrypoint", "ftray train /etc/ftray/x.yaml", "x.yaml is not mounted"),
        ("RayJob", "spec.entrypoint", "ftray serve /etc/ftray/x.yaml", "runs ftray serve"),
        ("RayJob", f"{JOB_POD}.volumes.2.configMap.name", "ftray-spec", "no ConfigMap ftray-spec"),
        ("ServiceAccount", "metadata.name", "other", "no ServiceAccount ftray"),
        ("PersistentVolumeClaim", "metadata.name", "other", "no PersistentVolumeClaim"),
    ],
)
def test_faults_are_found(kind: str, path: str, value: Any, fault: str) -> None:
    documents = objects()
    harmed = next(document for document in documents if document["kind"] == kind)
    put(harmed, path, value)
    found = [*faults(harmed), *reference_faults(documents)]
    assert any(re.search(fault, one, re.DOTALL) for one in found), found


def json_schema(schema: Any) -> Any:
    """An OpenAPI schema as JSON Schema, refusing unknown fields as a strict API server does."""
    if isinstance(schema, list):
        return [json_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: json_schema(part) for key, part in schema.items() if key != "properties"}
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    if "properties" in schema:
        found["properties"] = {k: json_schema(part) for k, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    return found


@cache
def crd_schema(kind: str) -> Any:
    schemas = json.loads(Path(str(CRD_SCHEMAS)).read_text())["schemas"]
    schema = json_schema(schemas[f"ray.io/v1/{kind}"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def crd_faults(document: Object) -> list[str]:
    import jsonschema

    validator = jsonschema.Draft202012Validator(crd_schema(document["kind"]))
    return [error.message for error in validator.iter_errors(document)]


@pytest.mark.skipif(not CRD_SCHEMAS, reason="KUBERAY_CRD_SCHEMAS names no file of schemas")
def test_ray_resources_fit_their_schemas() -> None:
    resources = [
        document
        for folder in (BASE, K8S / "overlay")
        for document in objects(folder)
        if cluster_spec(document)
    ]
    assert len(resources) == 8
    for document in resources:
        assert crd_faults(document) == [], label(document)
        harmed = copy.deepcopy(document)
        harmed["spec"]["submisionMode"] = "x"
        (cluster_spec(harmed) or {})["workerGroupSpecs"][0]["maxReplicas"] = "two"
        assert len(crd_faults(harmed)) == 2
