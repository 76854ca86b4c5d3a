"""Rules for Kubernetes manifests.

The rules find faults that the API server and the KubeRay operator refuse, and faults that nobody
would report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from ftray.errors import ServeError
from ftray.serve.settings import Settings, parse, require_auth
from tests.helpers.kubernetes.manifests import Object, cluster_spec, label, pod_templates

# The operator appends a suffix to a resource's name, and the result must fit in a label.
NAME_LIMITS = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}

# Each rule yields the faults of one object.


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


def container_rules(document: Object) -> Iterator[str]:
    containers = {
        where: container
        for where, template in pod_templates(document).items()
        for container in template["spec"]["containers"]
    }
    for where, container in containers.items():
        if container.get("imagePullPolicy") != "IfNotPresent":
            yield f"{where}: which images are pulled depends on their tags"
        for port in container.get("ports", ()):
            if port.get("protocol") != "TCP":
                yield f"{where}: port {port['containerPort']} names no protocol"
    autoscaler = (cluster_spec(document) or {}).get("autoscalerOptions")
    if autoscaler and autoscaler.get("imagePullPolicy") != "IfNotPresent":
        yield "autoscaler: which images are pulled depends on their tags"
    if document["kind"] == "Deployment" and "startupProbe" not in containers["pod"]:
        yield "pod: a slow first start is taken for a failure"


def port_rules(document: Object) -> Iterator[str]:
    """Yields ports that name no protocol.

    The API server adds the default, so each apply changes the list back.
    """
    spec = document["spec"] if document["kind"] in {"Service", "NetworkPolicy"} else {}
    rules = [spec, *spec.get("ingress", ())]
    for port in [port for rule in rules for port in rule.get("ports", ())]:
        if port.get("protocol") != "TCP":
            yield f"port {port['port']} names no protocol"


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
            settings = parse(section)
            require_auth(settings)
        except ServeError as error:
            yield f"serveConfigV2: {error}"
            continue
        yield from placement_faults(settings, document["spec"]["rayClusterConfig"])
        if any("@" in model for model in settings.model) and not settings.wait_for_model:
            yield "serveConfigV2: fails for good where its alias comes after it"


def placement_faults(settings: Settings, cluster: Object) -> Iterator[str]:
    """Yields settings under which a lost worker costs two replicas or a replica finds no worker."""
    [group] = cluster["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    if settings.cpus_per_replica != float(container["resources"]["limits"]["cpu"]):
        yield "serveConfigV2: a replica is not as large as a worker"
    if settings.max_replicas_per_node != 1:
        yield "serveConfigV2: two replicas may go with one node"
    if not 2 <= settings.replicas.min <= group["minReplicas"]:
        yield "serveConfigV2: fewer than two replicas, or fewer workers than replicas"
    if settings.replicas.max > group["maxReplicas"]:
        yield "serveConfigV2: more replicas than there may be workers"


def serving_pod_rules(document: Object) -> Iterator[str]:
    if document["kind"] != "RayService":
        return
    for where, template in pod_templates(document).items():
        [container] = template["spec"]["containers"]
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        for name in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"):
            if env.get(name) != "1":
                yield f"{where}: {name} is not set"
        if "empty-response" in env.get("RAY_SERVE_HAPROXY_RETRY_ON", "empty-response"):
            yield f"{where}: a request that ends a replica would end them all"
        if any("configMap" in volume for volume in template["spec"]["volumes"]):
            yield f"{where}: another spec would replace what serves"


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
    container_rules,
    port_rules,
    volume_rules,
    serve_rules,
    serving_pod_rules,
]


def reference_faults(documents: list[Object]) -> Iterator[str]:
    """Yields references of pods to objects that do not exist.

    Also yields files that are not mounted where the pod looks for them.
    """
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        for where, template in pod_templates(document).items():
            for kind, name in references(template["spec"]):
                if (kind, name) not in names:
                    yield f"{label(document)} {where}: no {kind} {name}"
        if document["kind"] == "RayJob":
            verb, path = document["spec"]["entrypoint"].split()[1:]
            if f"ftray-{verb}" not in document["metadata"]["name"]:
                yield f"{label(document)}: runs ftray {verb}"
            if path not in mounted_files(documents, document):
                yield f"{label(document)}: {path} is not mounted"


def references(pod: Object) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod.get("serviceAccountName", "default")
    for container in pod["containers"]:
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        yield "Service", env.get("MLFLOW_HOST", "")
    for volume in pod["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def mounted_files(documents: list[Object], job: Object) -> set[str]:
    """The files from ConfigMaps that a job's driver can read; the driver runs on the head."""
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


def all_faults(documents: list[Object]) -> list[str]:
    found = [fault for document in documents for fault in faults(document)]
    return [*found, *reference_faults(documents)]
