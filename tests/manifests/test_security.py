"""What no pod of ours may do, and what every one must say."""

from __future__ import annotations

import pytest

from tests.manifests.kustomize import VARIANTS, build, of_kind, workloads

DEFAULT = {"type": "RuntimeDefault"}
# It makes namespaces, which the default forbids. The restricted standard allows a profile of ours.
SECCOMP = {
    "tuft-sandbox": {"type": "Localhost", "localhostProfile": "profiles/tuft-sandbox.json"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_restricted(variant: str) -> None:
    [namespace] = of_kind(variant, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for found in workloads(variant):
        context = found.pod["securityContext"]
        assert context["runAsNonRoot"] is True, found.name
        assert context["runAsUser"] >= 10_000, found.name
        assert context["runAsGroup"] >= 10_000, found.name
        assert context["seccompProfile"] == SECCOMP.get(found.name, DEFAULT), found.name
        for setting in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            assert not found.pod.get(setting), found.name
        assert found.pod["automountServiceAccountToken"] is False, found.name
        assert found.pod["enableServiceLinks"] is False, found.name
        kinds = {next(key for key in volume if key != "name") for volume in found.pod["volumes"]}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}, found.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_containers_are_restricted(variant: str) -> None:
    for found in workloads(variant):
        for container in found.containers:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, found.name
            assert context["readOnlyRootFilesystem"] is True, found.name
            assert context["capabilities"] == {"drop": ["ALL"]}, found.name
            assert not context.get("privileged"), found.name
            # Nothing gives back what the pod's settings took away.
            assert not {"runAsUser", "runAsNonRoot", "seccompProfile"} & set(context), found.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_containers_say_what_they_take(variant: str) -> None:
    for found in workloads(variant):
        for container in found.containers:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][kind])
            tag = container["image"].partition("@")[0].rpartition("/")[2].partition(":")[2]
            assert tag, f"{container['image']} has no version"
            assert tag not in ("latest", "main"), container["image"]
            assert container["imagePullPolicy"] == "IfNotPresent"
        for volume in found.pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], f"{found.name}: {volume['name']}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_secret_is_in_the_manifests(variant: str) -> None:
    assert of_kind(variant, "Secret") == {}
    for document in build(variant):
        if document["kind"] == "ConfigMap":
            text = "".join(document["data"].values()).lower()
            assert not any(
                word in text for word in ("tml-", "secret_key", "requirepass", "api_keys:")
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_open_that_no_policy_names(variant: str) -> None:
    """All of the namespace is closed, every policy opens something for pods that there are."""
    policies = of_kind(variant, "NetworkPolicy")
    closed = policies.pop("tuft-deny-all")
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    components = {
        found.template["metadata"]["labels"]["app.kubernetes.io/component"]
        for found in workloads(variant)
    }
    for name, policy in policies.items():
        selector = policy["spec"]["podSelector"]
        wanted = {selector.get("matchLabels", {}).get("app.kubernetes.io/component")} - {None}
        for expression in selector.get("matchExpressions", []):
            if expression["key"] == "app.kubernetes.io/component":
                wanted |= set(expression["values"])
        assert wanted <= components, name
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            assert rule.get("from") or rule.get("to"), f"{name} opens to everybody"


def test_people_get_no_secrets_and_no_shells() -> None:
    [role] = of_kind("base", "Role").values()
    for rule in role["rules"]:
        assert not {"*", "secrets", "pods/exec", "pods/attach"} & set(rule["resources"])
        assert "*" not in rule["verbs"]
