"""Every document of kubernetes/ is valid, and they are consistent with each other."""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT
from tests.kubernetes.conftest import KUBERNETES, NAME, Cluster, built

SECRETS = {
    secret["metadata"]["name"]: secret["stringData"].keys()
    for secret in yaml.safe_load_all((KUBERNETES / "secrets.example.yaml").read_text())
}
ELSEWHERE = ("ScaledObject", "PodMonitor", "PrometheusRule")
"""Kinds that are not of Kubernetes itself."""

OLDEST = "1.30"
"""The first version with `preStop.sleep` enabled by default."""


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_documents_are_valid(cluster: Cluster, version: str) -> None:
    """By the schemas of Kubernetes, which reject unknown fields."""
    kinds = Counter(document["kind"] for document in cluster.documents)
    assert kinds == {
        "Namespace": 1, "ConfigMap": 2, "Deployment": 2, "StatefulSet": 1, "Service": 2, "PodDisruptionBudget": 2,
        "NetworkPolicy": 5, "Ingress": 1, "PodMonitor": 2, "PrometheusRule": 1, "ScaledObject": 1,
    }  # fmt: skip
    for document in cluster.documents:
        if document["kind"] not in ELSEWHERE:
            kubernetes_validate.validate(document, version, strict=True)


def test_custom_resources_are_valid(cluster: Cluster) -> None:
    """By the models of KEDA and of the Prometheus operator; an unknown field would be missing after a round trip."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

    models = {model.__name__: model for model in (ScaledObject, PodMonitor, PrometheusRule)}
    found = cluster.all(*ELSEWHERE)
    assert len(found) == 4
    for document in found:
        model = models[document["kind"]].model_validate(document)
        assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == document


def test_rules_are_those_of_ops(cluster: Cluster) -> None:
    """And their job label is the one that the monitors set."""
    (rule,) = cluster.all("PrometheusRule")
    rules = yaml.safe_load((ROOT / "ops" / "rules.yml").read_text())
    built, expected = (re.sub(r"(\\n| )+", " ", json.dumps(spec, sort_keys=True)) for spec in (rule["spec"], rules))
    assert built == expected, "run `make rules`"  # white space aside, which kustomize folds differently
    pods = {pod["metadata"]["labels"][NAME] for _, pod in cluster.pods()}
    assert set(re.findall(r'job="([^"]+)"', str(rule["spec"]))) <= pods
    assert {monitor["spec"]["jobLabel"] for monitor in cluster.all("PodMonitor")} == {NAME}


def test_the_example_of_secrets_is_valid() -> None:
    """And contains no value that could be used as a secret."""
    text = (KUBERNETES / "secrets.example.yaml").read_text()
    for document in yaml.safe_load_all(text):
        kubernetes_validate.validate(document, OLDEST, strict=True)
        assert document["metadata"]["namespace"] == "otoscope"
        assert all("REPLACE-ME" in value for value in document["stringData"].values())


def test_everything_is_in_its_namespace(cluster: Cluster) -> None:
    """Whose pod security level is `restricted`."""
    (namespace,) = cluster.all("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {document["metadata"].get("namespace") for document in cluster.documents} == {None, "otoscope"}
    assert [document for document in cluster.documents if "namespace" not in document["metadata"]] == [namespace]


def test_selectors_match_their_pods(cluster: Cluster) -> None:
    """A selector without a match has no effect, and no error."""
    pods = {"gateway", "worker", "redis"}
    assert {name for name, _ in cluster.pods()} == pods
    for owner in cluster.all("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor"):
        assert cluster.selected(owner["spec"]["selector"]) == {owner["metadata"]["name"]}
    for service in cluster.all("Service"):
        assert cluster.selected({"matchLabels": service["spec"]["selector"]}) == {service["metadata"]["name"]}
    for policy in cluster.all("NetworkPolicy"):
        found = cluster.selected(policy["spec"]["podSelector"])
        expected = {"nothing-unless-named": pods, "to-redis": {"gateway", "worker"}}
        name = policy["metadata"]["name"]
        assert found == expected.get(name, {name})
    for name, pod in cluster.pods():
        for spread in pod["spec"].get("topologySpreadConstraints", []):
            assert cluster.selected(spread["labelSelector"]) == {name}
    (scaled,) = cluster.all("ScaledObject")
    assert cluster.one("Deployment", scaled["spec"]["scaleTargetRef"]["name"])
    assert "replicas" not in cluster.one("Deployment", "worker")["spec"], "applying it again would undo the scaling"


def ports(pod: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for part in pod["spec"]["containers"] for port in part["ports"]}


def test_ports_are_declared_by_the_pods(cluster: Cluster) -> None:
    """Declared once, in the pod, and used by name everywhere else."""
    pods = dict(cluster.pods())
    assert {name: ports(pod) for name, pod in pods.items()} == {
        "gateway": {"http": 8000}, "worker": {"metrics": 9100}, "redis": {"redis": 6379},
    }  # fmt: skip
    for service in cluster.all("Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports(
            pods[service["metadata"]["name"]]
        ).keys()
    for monitor in cluster.all("PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in ports(pods[monitor["metadata"]["name"]])
    for name, pod in pods.items():
        for container in pod["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                how = container.get(probe, {})
                target = how.get("httpGet") or how.get("tcpSocket") or {}
                assert target.get("port", next(iter(ports(pod)))) in ports(pod), (name, probe)
    (ingress,) = cluster.all("Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    backend = cluster.one("Service", path["backend"]["service"]["name"])
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in backend["spec"]["ports"]}


def test_mounted_configuration_exists(cluster: Cluster) -> None:
    """ConfigMaps among the documents, Secrets in the example, with the keys that pods use."""
    maps = {document["metadata"]["name"]: document["data"].keys() for document in cluster.all("ConfigMap")}
    used: set[str] = set()
    for _, pod in cluster.pods():
        mounted = {mount["name"] for part in pod["spec"]["containers"] for mount in part["volumeMounts"]}
        claimed = {"data"} if "redis" in pod["metadata"]["labels"][NAME] else set()
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]} | claimed
        for volume in pod["spec"]["volumes"]:
            if secret := volume.get("secret"):
                used.add(secret["secretName"])
                assert {item["key"] for item in secret.get("items", [])} <= SECRETS[secret["secretName"]]
            if config := volume.get("configMap"):
                assert config["name"] in maps
        for container in pod["spec"]["containers"]:
            assert all(source["configMapRef"]["name"] in maps for source in container.get("envFrom", []))
    for monitor in cluster.all("PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if key := endpoint.get("authorization", {}).get("credentials"):
                used.add(key["name"])
                assert key["key"] in SECRETS[key["name"]]
    for ingress in cluster.all("Ingress"):
        used |= {tls["secretName"] for tls in ingress["spec"]["tls"]}
    assert used == SECRETS.keys() - {"otoscope-s3"}  # of the component `sound-sources`


def test_network_policies(cluster: Cluster) -> None:
    """Gateway and worker reach Redis, Prometheus reaches the metrics, Prometheus and the ingress reach the gateway."""
    everything = cluster.one("NetworkPolicy", "nothing-unless-named")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    def sources(name: str) -> list[Any]:
        (rule,) = cluster.one("NetworkPolicy", name)["spec"]["ingress"]
        (port,) = rule["ports"]
        assert port["port"] in ports(dict(cluster.pods())[name])
        return [next(iter(source.values())) for source in rule["from"]]

    def namespace(name: str) -> dict[str, Any]:
        return {"matchLabels": {"kubernetes.io/metadata.name": name}}

    (to_redis,) = sources("redis")
    assert cluster.selected(to_redis) == {"gateway", "worker"}
    assert sources("worker") == [namespace("monitoring")]
    assert sources("gateway") == [namespace("nginx-ingress"), namespace("monitoring")]
    redis, names = cluster.one("NetworkPolicy", "to-redis")["spec"]["egress"]
    assert [port["port"] for port in redis["ports"]] == [ports(dict(cluster.pods())["redis"])["redis"]]
    assert {port["port"] for port in names["ports"]} == {53}


def test_workers_reach_no_other_host_unless_sounds_are_fetched(
    cluster: Cluster, changed: Callable[[str, str, str], Cluster]
) -> None:
    """With the component for sounds by address: HTTPS to public addresses, from workers only."""
    opened = {document["metadata"]["name"] for document in cluster.all("NetworkPolicy") if "egress" in document["spec"]}
    assert opened == {"to-redis"}
    other = changed(
        "cpu", "  - ../../components/redis\n", "  - ../../components/redis\n  - ../../components/sound-sources\n"
    )
    policy = other.one("NetworkPolicy", "to-sound-sources")["spec"]
    assert other.selected(policy["podSelector"]) == {"worker"}
    (rule,) = policy["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    v4, v6 = (source["ipBlock"] for source in rule["to"])
    refused = [ipaddress.ip_network(network) for network in v4["except"]]
    for address in ("10.1.2.3", "169.254.169.254", "192.168.0.1", "172.20.0.1", "127.0.0.1", "100.64.0.1", "224.0.0.1"):
        assert any(ipaddress.ip_address(address) in network for network in refused), address
    assert not any(ipaddress.ip_address("93.184.215.14") in network for network in refused)
    for address in ("::1", "fe80::1", "fd00::1"):
        assert ipaddress.ip_address(address) not in ipaddress.ip_network(v6["cidr"])
    assert other.settings()["OTOSCOPE_SOUND_SOURCES"].startswith("https://")
    before, after = (dict(each.pods())["worker"]["spec"]["containers"][0] for each in (Cluster(built("cpu")), other))
    assert after["envFrom"][1:] == [{"secretRef": {"name": "otoscope-s3", "optional": True}}]
    assert len(before["envFrom"]) == 1
    assert {**after, "envFrom": before["envFrom"]} == before
    documented = set(re.findall(r"`(AWS_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    assert SECRETS["otoscope-s3"] == documented


def test_redis_can_be_left_out(changed: Callable[[str, str, str], Cluster]) -> None:
    """For a managed Redis: nothing of the built-in one is left, and the rest is unchanged."""
    cluster = changed("cpu", "  - ../../components/redis\n", "")
    assert {name for name, _ in cluster.pods()} == {"gateway", "worker"}
    assert not [document for document in cluster.documents if "redis" in document["metadata"]["name"].split("-")[:1]]
    assert cluster.one("NetworkPolicy", "to-redis")
    assert cluster.one("Service", "gateway")


def test_the_steps_of_the_guide_work(cluster: Cluster, changed: Callable[[str, str, str], Cluster]) -> None:
    """Its patch opens more ports; it creates the Secrets that pods use and builds the images that they run."""
    guide = (ROOT / "docs" / "deployment.md").read_text()
    (patch,) = re.findall(r"^```yaml\n(patches:\n.*?)^```", guide, re.MULTILINE | re.DOTALL)
    policy = changed("cpu", "patches:\n", patch).one("NetworkPolicy", "to-redis")
    redis, names = policy["spec"]["egress"]
    assert [port["port"] for port in redis["ports"]] == [6379, 6380, 26379, 4318]
    assert {port["port"] for port in names["ports"]} == {53}
    assert set(re.findall(r"create secret \w+ (\S+)", guide)) == SECRETS.keys()
    images = {pod["spec"]["containers"][0]["image"] for name, pod in cluster.pods() if name != "redis"}
    assert images <= set(re.findall(r"docker build .*-t (\S+)", guide))
