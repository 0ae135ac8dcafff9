"""What all our WorkflowTemplates have around their templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuft_components.argo.pods import pod_security
from tuft_components.argo.step_templates import API_VERSION
from tuft_components.profile import Profile
from tuft_pipelines.argo.parts import Knob, Knobs, argument

NAME = Knob(
    None,
    "Name of the training run, unique in your tenant. A workflow of the same name goes on where "
    "the last one ended.",
)
WORK_ROOT = Knob(
    "s3://tuft/pipelines",
    "s3://bucket/prefix below which the workflow keeps its data, under its name.",
)
WORK = f"{argument('work_root')}/{argument('name')}"
"""The work_uri of a pipeline with the arguments `work_root` and `name`."""

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


def exit_template(knobs: Knobs, work_uri: str) -> dict[str, Any]:
    """However the workflow ended: the report of what is there. Where it fails, the work is as it was.

    Nothing need be given back: who may write to a training run is settled by writer epochs, which
    the next one to attach takes (docs/adr/0005).
    """
    report = knobs.step(
        "report",
        "report",
        {
            "work_uri": work_uri,
            "title": f"{argument('name')}: {{{{workflow.status}}}}",
        },
        renamed={"samples": "report_samples"},
        hidden=("longest_text",),
        continueOn={"failed": True, "error": True},
    )
    return {"name": "exit", "steps": [[report]]}
