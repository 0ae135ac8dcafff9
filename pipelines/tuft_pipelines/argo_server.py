"""Runs on Argo Workflows, through its server and the client `argo-workflows`.

The server and how to be let in are said as for the `argo` command: ARGO_SERVER (host:port),
ARGO_SECURE, ARGO_INSECURE_SKIP_VERIFY, ARGO_BASE_HREF, ARGO_TOKEN and ARGO_NAMESPACE. The client's
models are of an older Argo, so that everything goes and comes as plain dicts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tuft_components.profile import Profile
from tuft_pipelines.errors import RemoteFailed, WrongArgument
from tuft_pipelines.remote import RunStatus, TaskStatus

_API = "argoproj.io/v1alpha1"
_DENIED = frozenset({401, 403})
_NOT_FOUND = 404
_ONGOING = frozenset({"", "Pending", "Running"})
# Answers as they are: the client knows only what its own Argo had.
_RAW = {"_check_return_type": False, "_preload_content": False}


class ArgoServer:
    """An `Engine`."""

    def __init__(self) -> None:
        from argo_workflows.api.workflow_service_api import WorkflowServiceApi
        from argo_workflows.api_client import ApiClient
        from argo_workflows.configuration import Configuration

        env = os.environ
        server = env.get("ARGO_SERVER", "")
        if not server:
            raise WrongArgument(
                "ARGO_SERVER is not set: it says where the Argo Server is, for example "
                "localhost:2746 after `kubectl -n argo port-forward svc/argo-server 2746`"
            )
        scheme = "http" if env.get("ARGO_SECURE", "true").lower() == "false" else "https"
        self._host = f"{scheme}://{server}{env.get('ARGO_BASE_HREF', '').rstrip('/')}"
        self._namespace = env.get("ARGO_NAMESPACE") or "default"
        configuration = Configuration(host=self._host)
        if env.get("ARGO_INSECURE_SKIP_VERIFY", "").lower() == "true":
            configuration.verify_ssl = False
        token = env.get("ARGO_TOKEN", "")
        if token:
            # The variable holds the whole header, as `argo auth token` prints it.
            prefixed = token if " " in token else f"Bearer {token}"
            configuration.api_key["BearerToken"] = prefixed
        self._api = WorkflowServiceApi(ApiClient(configuration))

    def submit(
        self, name: str, build: Sequence[str], settings: Sequence[str], profile: Profile
    ) -> str:
        if build:
            raise WrongArgument("--build is for KFP: with Argo everything is a parameter")
        template = workflow_template(name, profile)
        parameters = _checked(template, settings)
        return self._create(
            {"workflowTemplateRef": {"name": template["metadata"]["name"]}}, parameters
        )

    def status(self, run_id: str) -> RunStatus:
        workflow = self._workflow(run_id)
        status = workflow.get("status", {})
        nodes = sorted(
            status.get("nodes", {}).values(), key=lambda node: str(node.get("startedAt") or "")
        )
        reference = workflow["spec"].get("workflowTemplateRef", {})
        return RunStatus(
            run_id=run_id,
            pipeline=str(reference.get("name", "")),
            state=str(status.get("phase") or "Pending"),
            message=str(status.get("message") or ""),
            arguments=_arguments(workflow),
            tasks=[
                TaskStatus(
                    name=node.get("displayName", node["id"]),
                    state=str(node.get("phase", "")),
                    message=str(node.get("message") or ""),
                    # Which of its pods is asked for by the node's id.
                    pods=(node["id"],),
                )
                for node in nodes
                if node.get("type") == "Pod"
            ],
        )

    def logs(self, run_id: str, pod: str) -> Iterator[str]:
        with _errors(self._host, f"workflow {run_id}"):
            response = self._api.workflow_logs(
                self._namespace, run_id, log_options_container="main", **_RAW
            )
            text = response.data.decode(errors="replace")
        # Lines of JSON: {"result": {"podName": …, "content": …}}. Names of pods end in what is
        # behind the last dash of the node's id.
        ending = pod.rpartition("-")[2]
        for line in text.splitlines():
            entry = json.loads(line).get("result", {}) if line.strip() else {}
            if str(entry.get("podName", "")).rpartition("-")[2] == ending:
                yield str(entry.get("content", ""))

    def resume(self, run_id: str) -> str:
        workflow = self._workflow(run_id)
        state = str(workflow.get("status", {}).get("phase") or "")
        if state in _ONGOING:
            raise WrongArgument(
                f"workflow {run_id} is {state or 'Pending'}: there is nothing to resume yet"
            )
        spec = {
            key: value for key, value in workflow["spec"].items() if key == "workflowTemplateRef"
        }
        if not spec:
            raise WrongArgument(f"workflow {run_id} is none of tuft-pipelines submit")
        return self._create(spec, _arguments(workflow))

    def _create(self, spec: dict[str, Any], parameters: dict[str, Any]) -> str:
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_create_request import (
            IoArgoprojWorkflowV1alpha1WorkflowCreateRequest as WorkflowCreateRequest,
        )

        template = spec["workflowTemplateRef"]["name"]
        listed = [{"name": name, "value": value} for name, value in parameters.items()]
        workflow = {
            "apiVersion": _API,
            "kind": "Workflow",
            "metadata": {"generateName": f"{template}-", "namespace": self._namespace},
            "spec": {**spec, "arguments": {"parameters": listed}},
        }
        with _errors(self._host, f"WorkflowTemplate {template} in {self._namespace}"):
            response = self._api.create_workflow(
                self._namespace, WorkflowCreateRequest(workflow=workflow, _check_type=False), **_RAW
            )
        created: str = json.loads(response.data)["metadata"]["name"]
        return created

    def _workflow(self, run_id: str) -> dict[str, Any]:
        with _errors(self._host, f"workflow {run_id} in {self._namespace}"):
            response = self._api.get_workflow(self._namespace, run_id, **_RAW)
        workflow: dict[str, Any] = json.loads(response.data)
        return workflow


def workflow_template(name: str, profile: Profile) -> dict[str, Any]:
    """The WorkflowTemplate of the ready pipeline of that name.

    Raises:
        WrongArgument: there is none for Argo.
    """
    from tuft_pipelines.argo import manifests

    found = {
        manifest["metadata"]["name"].removeprefix("tuft-").replace("-", "_"): manifest
        for manifest in manifests(profile).values()
        if "entrypoint" in manifest.get("spec", {})
    }
    if name not in found:
        raise WrongArgument(f"no pipeline {name!r} for Argo; there are: {', '.join(sorted(found))}")
    template: dict[str, Any] = found[name]
    return template


def _checked(template: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    declared = {
        parameter["name"]: parameter
        for parameter in template["spec"].get("arguments", {}).get("parameters", [])
    }
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise WrongArgument(f"{setting!r}: write NAME=VALUE")
        if name not in declared:
            raise WrongArgument(f"no parameter {name}; there are: {', '.join(sorted(declared))}")
        values[name] = text
    for name, parameter in declared.items():
        if name not in values and "value" not in parameter:
            raise WrongArgument(
                f"parameter {name} is missing. {parameter.get('description', '')}".strip()
            )
    return values


def _arguments(workflow: dict[str, Any]) -> dict[str, Any]:
    listed = workflow["spec"].get("arguments", {}).get("parameters", [])
    return {parameter["name"]: parameter.get("value") for parameter in listed}


@contextmanager
def _errors(host: str, what: str) -> Iterator[None]:
    import urllib3
    from argo_workflows.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        said = str(error.body or error.reason).strip()
        if error.status in _DENIED:
            raise WrongArgument(
                f"{host} refused ({error.status}): set ARGO_TOKEN to what `argo auth token` prints"
                f", and ARGO_NAMESPACE to your namespace. It said: {said}"
            ) from error
        if error.status == _NOT_FOUND:
            raise WrongArgument(
                f"{host} has no {what}. Pipelines are put there with "
                "`tuft-pipelines compile NAME --engine argo -o FILE` and `kubectl apply -f FILE`. "
                f"It said: {said}"
            ) from error
        raise RemoteFailed(f"{host} answered {error.status}: {said}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise RemoteFailed(f"{host} can't be reached: {error}") from error
