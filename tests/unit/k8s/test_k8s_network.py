"""Who reaches which port of which pod, as the network policies say."""

from __future__ import annotations

from tests.helpers.kubernetes.manifests import Object, needs_kubectl, objects, only, pod_templates

pytestmark = needs_kubectl


def lets_in(documents: list[Object], pod: Object, port: int, who: Object, own: bool) -> bool:
    """Whether the policies let a pod with labels `who`, of our `own` namespace or of another one,
    reach `port` of a pod with labels `pod`."""
    policies = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    chosen = [policy for policy in policies if matches(policy["podSelector"], pod)]
    return not chosen or any(
        any(
            ("namespaceSelector" in peer or own) and matches(peer.get("podSelector", {}), who)
            for peer in rule["from"]
        )
        and port in [one["port"] for one in rule.get("ports", [{"port": port}])]
        for policy in chosen
        for rule in policy.get("ingress", ())
    )


def matches(selector: Object, labels: Object) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_ports_are_open_to_those_who_need_them_and_to_nobody_else() -> None:
    documents = objects()
    kuberay = {"app.kubernetes.io/name": "kuberay"}
    service, cluster = only("RayService"), only("RayCluster")
    worker, head = (
        {**pod_templates(service)[where]["metadata"]["labels"], **kuberay, **more}
        for where, more in (
            ("workers", {"ray.io/serve": "true"}),
            ("head", {"ray.io/node-type": "head"}),
        )
    )
    trainer = {**pod_templates(cluster)["workers"]["metadata"]["labels"], **kuberay}
    mlflow = only("Deployment")["spec"]["template"]["metadata"]["labels"]
    submitter = pod_templates(next(one for one in documents if one["kind"] == "RayJob"))
    operator = {"app.kubernetes.io/component": "kuberay-operator", **kuberay}

    def reached(pod: Object, port: int, who: Object, own: bool = True) -> bool:
        return lets_in(documents, pod, port, who, own)

    # Everybody asks for predictions; HAProxy's figures, replicas and Ray are the service's own.
    assert reached(worker, 8000, {}, own=False) and reached(worker, 8000, trainer)
    for port in (8404, 9101, 8500, 30000, 6379, 8265):
        assert reached(worker, port, worker) and reached(worker, port, head)
        for who in (trainer, mlflow, {}):
            assert not reached(worker, port, who), (port, who)
        for who in (worker, operator, {}):
            assert not reached(worker, port, who, own=False), (port, who)
    # The operator reaches heads, and no other pod of its namespace or of other clusters does.
    assert reached(head, 8265, operator, own=False)
    assert not reached(head, 8265, {**worker, **kuberay}, own=False)
    train_head = {**trainer, "ray.io/node-type": "head"}
    assert reached(train_head, 8265, submitter["submitter"]["metadata"]["labels"])
    assert reached(train_head, 6379, trainer) and not reached(train_head, 6379, worker)
    for who in (worker, trainer):
        assert reached(mlflow, 5000, who) and not reached(mlflow, 5000, who, own=False)
