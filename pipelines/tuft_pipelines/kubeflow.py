"""Runs on Kubeflow Pipelines, through its own client.

The server and how to be let in are said as for the `kfp` command: KFP_ENDPOINT, KFP_NAMESPACE,
KFP_EXISTING_TOKEN, KFP_IAP_CLIENT_ID, KFP_OTHER_CLIENT_ID, KFP_OTHER_CLIENT_SECRET, and the
client's own KF_PIPELINES_… variables. In a pod of the cluster nothing need be said.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuft_components.profile import Profile
from tuft_pipelines.catalogue import ready_pipeline
from tuft_pipelines.compiling import compile_pipeline
from tuft_pipelines.errors import RemoteFailed, WrongArgument
from tuft_pipelines.faces import container_faces
from tuft_pipelines.remote import RunStatus, TaskStatus

_DEFAULT_NAMESPACE = "kubeflow"
_ONGOING = frozenset({"PENDING", "RUNNING", "CANCELING", "PAUSED"})
_DENIED = frozenset({401, 403})
_NOT_FOUND = 404
# Of KFP's own nodes: those that start the pods of tasks, and the pod below each task.
_DRIVER, _EXECUTOR, _ROOT = "-driver", "executor", "root"


class Kubeflow:
    """An `Engine`."""

    def __init__(self, experiment: str = "") -> None:
        import kfp

        env = os.environ
        self._experiment = experiment or None
        self._namespace = env.get("KFP_NAMESPACE")
        host = env.get("KFP_ENDPOINT") or env.get("KF_PIPELINES_ENDPOINT")
        if not host and not _cluster_is_known():
            raise WrongArgument(
                "KFP_ENDPOINT is not set: it says where Kubeflow Pipelines is, for example "
                "http://127.0.0.1:8080 after "
                "`kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80`"
            )
        with _errors(host or "the cluster"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client = kfp.Client(
                host=host,
                client_id=env.get("KFP_IAP_CLIENT_ID"),
                namespace=self._namespace or _DEFAULT_NAMESPACE,
                other_client_id=env.get("KFP_OTHER_CLIENT_ID"),
                other_client_secret=env.get("KFP_OTHER_CLIENT_SECRET"),
                existing_token=env.get("KFP_EXISTING_TOKEN"),
            )
        self._host = host or "the cluster"

    def submit(
        self, name: str, build: Sequence[str], settings: Sequence[str], profile: Profile
    ) -> str:
        pipeline = ready_pipeline(name)
        choices = pipeline.choose(build)
        arguments = pipeline.parameters.parse(settings)
        with tempfile.TemporaryDirectory(prefix="tuft-") as folder, _errors(self._host):
            file = Path(folder) / f"{name}.yaml"
            compile_pipeline(pipeline.build(container_faces(profile), choices), file)
            result = self._client.create_run_from_pipeline_package(
                str(file),
                arguments=arguments,
                run_name=f"{name} {arguments['name']}",
                experiment_name=self._experiment,
                namespace=self._namespace,
                service_account=profile.service_account or None,
            )
        return str(result.run_id)

    def status(self, run_id: str) -> RunStatus:
        run = self._run(run_id)
        details = run.run_details.task_details if run.run_details else None
        spec = run.pipeline_spec or {}
        spec = spec.get("pipeline_spec", spec)
        return RunStatus(
            run_id=run_id,
            pipeline=str(spec.get("pipelineInfo", {}).get("name", run.display_name)),
            state=str(run.state),
            message=run.error.message if run.error else "",
            arguments=(run.runtime_config.parameters or {}) if run.runtime_config else {},
            tasks=_tasks(details or []),
        )

    def logs(self, run_id: str, pod: str) -> Iterator[str]:
        path = f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
        with _errors(self._host, f"log of pod {pod}"):
            # Not in the client: the server has it from its first version on.
            response = self._client._run_api.api_client.call_api(
                path,
                "GET",
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
            )
            yield from response.data.decode(errors="replace").splitlines()

    def resume(self, run_id: str) -> str:
        import kfp_server_api

        run = self._run(run_id)
        if str(run.state) in _ONGOING:
            raise WrongArgument(f"run {run_id} is {run.state}: there is nothing to resume yet")
        again = kfp_server_api.V2beta1Run(
            experiment_id=run.experiment_id,
            display_name=run.display_name,
            pipeline_spec=run.pipeline_spec,
            pipeline_version_reference=None
            if run.pipeline_spec
            else run.pipeline_version_reference,
            runtime_config=run.runtime_config,
            service_account=run.service_account,
        )
        with _errors(self._host):
            created = self._client._run_api.run_service_create_run(run=again)
        return str(created.run_id)

    def _run(self, run_id: str) -> Any:
        with _errors(self._host, f"run {run_id}"):
            return self._client.get_run(run_id)


def _tasks(details: Sequence[Any]) -> list[TaskStatus]:
    """The tasks of our pipelines among KFP's nodes, in the order in which they began."""
    by_pod = {detail.pod_name: detail for detail in details if detail.pod_name}

    def pods(detail: Any) -> Iterator[str]:
        children = [child.pod_name for child in detail.child_tasks or [] if child.pod_name]
        if not children and detail.pod_name:
            yield detail.pod_name
        for pod in children:
            child = by_pod.get(pod)
            # A task that has ended has the drivers of those after it as children.
            if child is None or child.display_name.startswith(_EXECUTOR):
                yield from pods(child) if child is not None else [pod]

    shown = [
        detail
        for detail in details
        if detail.display_name
        and detail.display_name != _ROOT
        and not detail.display_name.endswith(_DRIVER)
        and not detail.display_name.startswith((_EXECUTOR, "tuft-"))
    ]
    shown.sort(key=lambda detail: str(detail.create_time or ""))
    return [
        TaskStatus(
            name=detail.display_name,
            state=str(detail.state or ""),
            message=(detail.error.message or "") if detail.error else "",
            pods=tuple(pods(detail)),
        )
        for detail in shown
    ]


def _cluster_is_known() -> bool:
    """Whether the client finds the cluster by itself."""
    return bool(
        os.environ.get("KUBERNETES_SERVICE_HOST")
        or os.environ.get("KUBECONFIG")
        or (Path.home() / ".kube" / "config").is_file()
    )


@contextmanager
def _errors(host: str, what: str = "") -> Iterator[None]:
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        said = _words(error.body) or error.reason
        if error.status in _DENIED:
            raise WrongArgument(
                f"{host} refused ({error.status} {said}): set KFP_EXISTING_TOKEN to a token that "
                "it takes, and KFP_NAMESPACE to your namespace"
            ) from error
        if error.status == _NOT_FOUND and what:
            raise WrongArgument(f"{host} has no {what}: {said}") from error
        raise RemoteFailed(f"{host} answered {error.status}: {said}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise RemoteFailed(f"{host} can't be reached: {error}") from error


def _words(body: object) -> str:
    """What the server says, out of its JSON."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        answer = json.loads(text)
    except ValueError:
        return text.strip()
    if not isinstance(answer, dict):
        return text.strip()
    return str(answer.get("message") or answer.get("error") or text)
