"""What all our WorkflowTemplates have around their templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuft_components.argo.pods import pod_security
from tuft_components.argo.step_templates import API_VERSION
from tuft_components.profile import Profile
from tuft_pipelines.argo.parts import Knobs

_DAY_S = 86400
_LABELS = {"app.kubernetes.io/part-of": "tuft-pipelines"}


def workflow_template(
    name: str,
    title: str,
    knobs: Knobs,
    templates: Sequence[dict[str, Any]],
    profile: Profile,
    *,
    mutex: str,
) -> dict[str, Any]:
    """The manifest; its templates `main` and `exit` are the work and what is done after it.

    Args:
        mutex: workflows with the same text wait for each other.
    """
    spec: dict[str, Any] = {
        "entrypoint": "main",
        "onExit": "exit",
        "arguments": knobs.arguments(),
        "synchronization": {"mutexes": [{"name": mutex}]},
        "activeDeadlineSeconds": 7 * _DAY_S,
        "podGC": {"strategy": "OnPodSuccess", "deleteDelayDuration": "600s"},
        "ttlStrategy": {"secondsAfterSuccess": 7 * _DAY_S, "secondsAfterFailure": 14 * _DAY_S},
        "workflowMetadata": {"labels": dict(_LABELS)},
        "securityContext": pod_security(),
    }
    if profile.service_account:
        spec["serviceAccountName"] = profile.service_account
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in profile.image_pull_secrets]
    spec["templates"] = list(templates)
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkflowTemplate",
        "metadata": {
            "name": name,
            "labels": dict(_LABELS),
            "annotations": {"workflows.argoproj.io/description": title},
        },
        "spec": spec,
    }
