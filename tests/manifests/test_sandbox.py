"""The sandbox runner's pods: closed, and with room for what their command allows."""

from __future__ import annotations

import json

import pytest

from tests.manifests.kustomize import COMPONENTS, MANIFESTS, OVERLAYS, of_kind, workload
from tuft_components.sandbox import seccomp
from tuft_components.sandbox.server import _parser

VARIANT = "components/sandbox"
# What bubblewrap and the runner call; the pod's profile must leave it to them.
NEEDED = {"clone", "clone3", "unshare", "mount", "umount2", "pivot_root", "setns", "socket",
          "memfd_create", "prctl", "seccomp", "setuid", "chdir", "chroot"}  # fmt: skip


def test_its_users_are_nobody_outside() -> None:
    pod = workload(VARIANT, "tuft-sandbox").pod
    assert pod["hostUsers"] is False
    assert {next(key for key in volume if key != "name") for volume in pod["volumes"]} == {
        "emptyDir"
    }


def test_it_can_reach_nothing() -> None:
    labels = workload(VARIANT, "tuft-sandbox").template["metadata"]["labels"]
    policies = of_kind(VARIANT, "NetworkPolicy")
    assert policies["tuft-sandbox"]["spec"]["egress"] == []
    for name, policy in policies.items():
        selector = policy["spec"]["podSelector"]
        matches = selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(each["key"]) in each["values"]
            for each in selector.get("matchExpressions", [])
        )
        assert not (matches and policy["spec"].get("egress")), name


def test_its_limits_fit_its_jobs() -> None:
    [container] = workload(VARIANT, "tuft-sandbox").containers
    command = container["command"]
    assert command[:3] == ["python", "-m", "tuft_components.sandbox.server"]
    parsed = _parser().parse_args(command[3:])
    memory = container["resources"]["limits"]["memory"]
    assert parsed.at_once * parsed.memory_mb + 512 <= 1024 * int(memory.removesuffix("Gi"))
    assert parsed.port == container["ports"][0]["containerPort"]
    grace = workload(VARIANT, "tuft-sandbox").pod["terminationGracePeriodSeconds"]
    assert grace > parsed.wall_s + 5 + 5


def test_the_profile_allows_bubblewrap_and_no_more_than_it_must() -> None:
    profile = json.loads((MANIFESTS / VARIANT / "seccomp.json").read_text())
    [rule] = profile["syscalls"]
    assert rule["action"] == "SCMP_ACT_ERRNO"
    denied = set(rule["names"])
    assert not denied & NEEDED
    # All that no program in a sandbox may call, the pod may not either, but for what it needs.
    assert set(seccomp.denied()) - denied <= NEEDED | {"personality"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_overlay_has_it_unasked(name: str) -> None:
    assert "sandbox" in COMPONENTS
    assert "tuft-sandbox" not in of_kind(f"overlays/{name}", "Deployment")
