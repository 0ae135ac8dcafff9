"""The manifests of the plugin, made from a profile and the contracts of the steps.

- the ConfigMap by which Argo's controller finds the plugin (with ARGO_EXECUTOR_PLUGINS=true): it
  holds a container, which Argo puts into the agent pod of each workflow that has a plugin template;
- the WorkflowTemplate `tuft-steps-plugin`: templates with the inputs and outputs of those in
  `tuft-steps`, which the plugin executes;
- the rights of the agent itself.

`python -m tuft_components.argo_plugin.manifest` writes them to manifests/argo/executor-plugin/.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tuft_components.argo.files import write_manifests, yaml_text
from tuft_components.argo.pods import container_security, environment, retry_strategy
from tuft_components.argo.step_templates import (
    API_VERSION,
    input_parameters,
    template_name,
    uri_parameter,
    written_by_uri,
)
from tuft_components.argo_plugin.calls import SERVICE_STEPS
from tuft_components.argo_plugin.cli import PORT
from tuft_components.argo_plugin.executions import Limits
from tuft_components.argo_plugin.wire import PLUGIN_NAME
from tuft_components.profile import Profile
from tuft_components.steps import Step, load_step

LIBRARY = "tuft-steps-plugin"
CONFIG_MAP = f"{PLUGIN_NAME}-executor-plugin"
FOLDER = Path("manifests/argo/executor-plugin")
HEADER = (
    "# Made by `make generate` (python -m tuft_components.argo_plugin.manifest): do not edit.\n"
)
_ARGO_USER = 8737
_LABELS = {"app.kubernetes.io/part-of": "tuft-pipelines"}


def config_map(profile: Profile, *, workers: int, memory: str) -> dict[str, Any]:
    """What the controller reads. The container is text, as Argo wants it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": CONFIG_MAP,
            "labels": {"workflows.argoproj.io/configmap-type": "ExecutorPlugin", **_LABELS},
        },
        "data": {
            "sidecar.automountServiceAccountToken": "false",
            "sidecar.container": yaml_text(sidecar(profile, workers=workers, memory=memory)),
        },
    }


def sidecar(profile: Profile, *, workers: int, memory: str) -> dict[str, Any]:
    """The container. Argo wants ports, requests, limits and a security context; it adds the mount
    with the token, and takes no volumes of ours."""
    return {
        "name": CONFIG_MAP,
        "image": profile.image,
        "imagePullPolicy": profile.image_pull_policy,
        "command": ["tuft-argo-plugin"],
        "args": [f"--port={PORT}", f"--workers={workers}"],
        "env": environment(profile),
        "ports": [{"containerPort": PORT}],
        "resources": {
            "requests": {"cpu": "250m", "memory": memory},
            "limits": {"cpu": "2", "memory": memory},
        },
        "securityContext": {
            **container_security(),
            # The token is a file of the agent's user, and of nobody else's.
            "runAsNonRoot": True,
            "runAsUser": _ARGO_USER,
            # Steps write to /tmp, and a plugin can't bring a volume for it.
            "readOnlyRootFilesystem": False,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def library(profile: Profile) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkflowTemplate",
        "metadata": {"name": LIBRARY, "labels": _LABELS},
        "spec": {"templates": [plugin_template(load_step(n), profile) for n in SERVICE_STEPS]},
    }


def plugin_template(step: Step[Any, Any, Any], profile: Profile) -> dict[str, Any]:
    """Takes and gives what the step's template of `tuft-steps` does, and its metrics besides."""
    by_uri = written_by_uri(step)
    content: dict[str, Any] = {
        "step": step.name,
        "params": {name: _input(name) for name in step.params.model_fields},
        "inputs": {name: _input(name) for name in step.inputs.model_fields},
        "outputs": {name: _input(uri_parameter(name)) for name in by_uri},
    }
    given = [name for name, kind in step.output_kinds().items() if kind != "artifact"]
    return {
        "name": template_name(step.name),
        "annotations": {"workflows.argoproj.io/description": f"{step.summary} Without a pod."},
        "inputs": {"parameters": list(input_parameters(step).values())},
        "outputs": {
            "parameters": [
                {"name": name, "valueFrom": {"supplied": {}}} for name in [*given, *by_uri]
            ]
        },
        "retryStrategy": retry_strategy(profile.step(step.name)),
        "plugin": {PLUGIN_NAME: {name: value for name, value in content.items() if value}},
    }


def _input(name: str) -> str:
    return f"{{{{inputs.parameters.{name}}}}}"


def agent_role() -> dict[str, Any]:
    """What Argo's agent needs, in its own words: manifests/quick-start/base/agent-role.yaml."""
    group = ["argoproj.io"]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "tuft-argo-agent", "labels": _LABELS},
        "rules": [
            {"apiGroups": group, "resources": ["workflowtasksets"], "verbs": ["list", "watch"]},
            {"apiGroups": group, "resources": ["workflowtasksets/status"], "verbs": ["patch"]},
        ],
    }


def agent_role_binding(profile: Profile) -> dict[str, Any]:
    role = agent_role()["metadata"]["name"]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": role, "labels": _LABELS},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": profile.service_account or "default"}],
    }


def manifests(profile: Profile, *, workers: int, memory: str) -> dict[str, dict[str, Any]]:
    """File name → manifest."""
    files = {
        "configmap.yaml": config_map(profile, workers=workers, memory=memory),
        "steps-plugin.yaml": library(profile),
        "agent-role.yaml": agent_role(),
        "agent-role-binding.yaml": agent_role_binding(profile),
    }
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(files),
    }
    return {**files, "kustomization.yaml": kustomization}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the manifests of the executor plugin.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for them")
    parser.add_argument("--profile", type=Path, help="YAML file with the cluster's settings")
    parser.add_argument("--workers", type=int, default=Limits().workers, help="steps at a time")
    parser.add_argument(
        "--memory", default="1Gi", help="of the sidecar: 100 MiB, and some 150 MiB a worker"
    )
    parsed = parser.parse_args()
    profile = Profile.load(parsed.profile) if parsed.profile else Profile()
    made = manifests(profile, workers=parsed.workers, memory=parsed.memory)
    write_manifests(parsed.out, made, HEADER)


if __name__ == "__main__":
    main()
