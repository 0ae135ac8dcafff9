"""What the pods of all steps have in common in Argo."""

from __future__ import annotations

from typing import Any

from tuft_components.errors import ExitCode
from tuft_components.profile import Profile, StepSettings, Toleration

USER = 10001
"""Of the image of the steps. The whole pod runs as it, Argo's own containers too: they read what
ours write."""

TMP = "/tmp"  # noqa: S108  # of a container: an emptyDir that belongs to its pod
OUTPUTS = f"{TMP}/outputs"
"""Where a step leaves what Argo fetches from its pod."""

_LOST = (-1, 137, 143)
"""No exit code (Argo's -1: a pod that was evicted before it began, say), SIGKILL (memory, a node that
went away) and SIGTERM (an eviction, a deadline)."""

RETRY_EXPRESSION = (
    "lastRetry.status == 'Error' or asInt(lastRetry.exitCode) in "
    f"[{','.join(str(code) for code in sorted((int(ExitCode.TRANSIENT), *_LOST)))}]"
)
"""Retry where that can help. Status Error: the pod was deleted, whatever became of the step. A node of
the executor plugin that got no reply has no exit code either, -1."""


def retry_strategy(settings: StepSettings) -> dict[str, Any]:
    return {
        "limit": settings.retries,
        "retryPolicy": "Always",  # the expression decides
        "expression": RETRY_EXPRESSION,
        "backoff": {
            "duration": f"{settings.backoff_s}s",
            "factor": 2,
            "cap": f"{settings.backoff_max_s}s",
        },
    }


def pod_security() -> dict[str, Any]:
    """Of the pod: it passes the `restricted` pod security standard with `container_security`."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def resources(settings: StepSettings) -> dict[str, Any]:
    return {
        "requests": {"cpu": settings.cpu, "memory": settings.memory},
        "limits": {"cpu": settings.cpu_limit, "memory": settings.memory},
    }


def environment(profile: Profile) -> list[dict[str, Any]]:
    """Variables of a step: HOME, where it may write; those of the profile; and its secrets."""
    values = {"HOME": TMP, **profile.env}
    secrets = [
        {
            "name": name,
            "valueFrom": {
                "secretKeyRef": {
                    "name": source.secret,
                    "key": source.key,
                    **({"optional": True} if source.optional else {}),
                }
            },
        }
        for name, source in profile.secret_env().items()
    ]
    return [*({"name": name, "value": value} for name, value in sorted(values.items())), *secrets]


def placement(settings: StepSettings) -> dict[str, Any]:
    """Fields of a template that say on which nodes its pods run, and what they are called."""
    fields: dict[str, Any] = {}
    labels = {"app.kubernetes.io/part-of": "tuft-pipelines", **settings.labels}
    fields["metadata"] = {"labels": labels}
    if settings.annotations:
        fields["metadata"]["annotations"] = dict(settings.annotations)
    if settings.node_selector:
        fields["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        fields["tolerations"] = [_toleration(item) for item in settings.tolerations]
    if settings.timeout_s:
        fields["activeDeadlineSeconds"] = settings.timeout_s
    return fields


def _toleration(item: Toleration) -> dict[str, Any]:
    fields = {
        "key": item.key,
        "operator": item.operator,
        "value": item.value,
        "effect": item.effect,
        "tolerationSeconds": item.toleration_seconds,
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}
