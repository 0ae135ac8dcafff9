"""Every variant builds, fits Kubernetes' schemas, and what it names is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.manifests.crds import SPECS
from tests.manifests.kustomize import COMPONENTS, VARIANTS, Document, build, of_kind, workloads

OLDEST, NEWEST = "1.31", "1.37"
"""Kubernetes that we mean to run on."""
# Made by the user before the rest: manifests/README.md.
SECRETS = {
    "tuft-api-keys": {"api_keys.yaml"},
    "tuft-valkey": {"password"},
    "tuft-object-store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "tuft-hugging-face": {"token"},
    "tuft-tls": {"tls.crt", "tls.key"},
    "tuft-sandbox": {"token"},
}
CLUSTER_WIDE = ("Namespace", "StorageClass")


def every(node: Any, key: str) -> Iterator[Any]:
    """The values of a key, wherever it stands."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from every(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from every(item, key)


def title(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


@cache
def check(text: str, version: str) -> None:
    """Raises where the document is wrong, or of a kind that nobody has a schema for.

    Most documents are the same in all variants, and the validator reads all schemas for each.
    """
    document = json.loads(text)
    foreign = SPECS.get((document["apiVersion"], document["kind"]))
    if foreign is None:
        kubernetes_validate.validate(document, version, strict=True)
        return
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}, title(document)
    jsonschema.validate(document["spec"], foreign)


@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_fit_the_schemas_of_the_oldest_kubernetes(variant: str) -> None:
    for document in build(variant):
        check(json.dumps(document), OLDEST)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_fit_the_schemas_of_the_newest_kubernetes(variant: str) -> None:
    for document in build(variant):
        check(json.dumps(document), NEWEST)


@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_are_told_apart_and_in_our_namespace(variant: str) -> None:
    names = [title(document) for document in build(variant)]
    assert len(names) == len(set(names))
    for document in build(variant):
        namespace = document["metadata"].get("namespace")
        assert namespace == (None if document["kind"] in CLUSTER_WIDE else "tuft"), title(document)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_pods_name_is_there(variant: str) -> None:
    maps, claims = of_kind(variant, "ConfigMap"), of_kind(variant, "PersistentVolumeClaim")
    accounts, services = of_kind(variant, "ServiceAccount"), of_kind(variant, "Service")
    for found in workloads(variant):
        assert found.pod["serviceAccountName"] in accounts, found.name
        assert found.document["spec"].get("serviceName", "tuft-api") in services, found.name
        volumes = found.pod.get("volumes", [])
        for volume in volumes:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, found.name
            if "secret" in volume:
                assert volume["secret"]["secretName"] in SECRETS, found.name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, found.name
        for reference in every(found.pod, "secretKeyRef"):
            assert reference["key"] in SECRETS[reference["name"]], found.name
        templates = found.document["spec"].get("volumeClaimTemplates", [])
        known = {volume["name"] for volume in volumes}
        known |= {template["metadata"]["name"] for template in templates}
        for container in found.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= known, found.name
            for reference in every(container.get("env", []), "resourceFieldRef"):
                assert reference["containerName"] == container["name"]
                assert "cpu" in container["resources"]["limits"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_selectors_find_the_pods_that_they_are_for(variant: str) -> None:
    pods = [(found, found.template["metadata"]["labels"]) for found in workloads(variant)]

    def selects(labels: dict[str, str]) -> list[str]:
        return [found.name for found, has in pods if labels.items() <= has.items()]

    for found, has in pods:
        selector = found.document["spec"].get("selector")
        if selector is not None:
            assert selector["matchLabels"].items() <= has.items()
            assert selects(selector["matchLabels"]) == [found.name]
        for term in [*every(found.pod, "labelSelector")]:
            assert selects(term["matchLabels"]) == [found.name]
    for service in of_kind(variant, "Service").values():
        assert selects(service["spec"]["selector"]) == [service["metadata"]["name"]]
    for budget in of_kind(variant, "PodDisruptionBudget").values():
        assert selects(budget["spec"]["selector"]["matchLabels"]) == [budget["metadata"]["name"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ports_have_the_names_that_are_used(variant: str) -> None:
    ports = {
        found.name: {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for found in workloads(variant)
        for container in found.containers
    }
    for found in workloads(variant):
        for container in found.containers:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                for action in ("tcpSocket", "httpGet"):
                    if action in probe:
                        assert probe[action]["port"] in ports[found.name]
    for service in of_kind(variant, "Service").values():
        for port in service["spec"].get("ports", []):
            if "targetPort" in port:
                assert port["targetPort"] in ports[service["metadata"]["name"]]
    named = {name for each in ports.values() for name in each}
    for policy in of_kind(variant, "NetworkPolicy").values():
        for port in [*every(policy["spec"], "ports")]:
            for entry in port:
                assert isinstance(entry["port"], int) or entry["port"] in named, title(policy)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_routes_and_scalers_name_is_there(variant: str) -> None:
    services = of_kind(variant, "Service")
    for ingress in of_kind(variant, "Ingress").values():
        for backend in every(ingress["spec"], "backend"):
            ports = {port["name"] for port in services[backend["service"]["name"]]["spec"]["ports"]}
            assert backend["service"]["port"]["name"] in ports
        for tls in ingress["spec"].get("tls", []):
            assert tls["secretName"] in SECRETS
    for route in of_kind(variant, "HTTPRoute").values():
        assert {parent["name"] for parent in route["spec"]["parentRefs"]} <= set(
            of_kind(variant, "Gateway")
        )
        for backend in (b for refs in every(route["spec"], "backendRefs") for b in refs):
            assert backend["port"] in {
                p["port"] for p in services[backend["name"]]["spec"]["ports"]
            }
    for monitor in of_kind(variant, "PodMonitor").values():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        [found] = [
            found
            for found in workloads(variant)
            if wanted <= found.template["metadata"]["labels"].items()
        ]
        ports = {port["name"] for port in found.containers[0]["ports"]}
        assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports
    for policy in of_kind(variant, "GCPBackendPolicy", "HealthCheckPolicy").values():
        assert policy["spec"]["targetRef"]["name"] in services
    for gateway in of_kind(variant, "Gateway").values():
        assert {
            entry["name"] for refs in every(gateway, "certificateRefs") for entry in refs
        } <= set(SECRETS)
    for scaler in of_kind(variant, "HorizontalPodAutoscaler", "ScaledObject").values():
        target = scaler["spec"]["scaleTargetRef"]
        scaled = of_kind(variant, target["kind"])[target["name"]]
        assert "replicas" not in scaled["spec"], "an apply would undo what the scaler did"
    for binding in of_kind(variant, "RoleBinding").values():
        assert binding["roleRef"]["name"] in of_kind(variant, "Role")


def test_every_component_changes_something() -> None:
    base = build("base")
    assert all(build(f"components/{name}") != base for name in COMPONENTS)
