"""Small HTTP servers that speak what `tuft-pipelines` needs of two APIs that can't be had here:
Kubeflow Pipelines v2beta1, and the Argo Server. Paths and shapes are those of KFP 2.17 and Argo 4.1.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "Bearer our-token"


@dataclass
class Request:
    method: str
    path: str
    query: str
    body: Any
    authorization: str


Answer = tuple[int, Any]
Routes = dict[tuple[str, str], Callable[..., Answer]]


@dataclass
class Server:
    """`requests` is what was asked, in order."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)


@contextmanager
def serving(routes: Routes) -> Iterator[Server]:
    """Answers (status, JSON or text) of the route whose pattern matches; its groups are given."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            authorization = self.headers.get("Authorization") or ""
            server.requests.append(Request(self.command, path, query, body, authorization))
            status, content = self._content(path, body, authorization)
            data = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data.encode())))
            self.end_headers()
            self.wfile.write(data.encode())

        def _content(self, path: str, body: Any, authorization: str) -> Answer:
            if authorization != TOKEN:
                return 401, {"code": 16, "message": "the token is not valid"}
            for (method, pattern), route in routes.items():
                match = re.fullmatch(pattern, path)
                if match and method == self.command:
                    return route(*match.groups(), **({"body": body} if body else {}))
            return 404, {"code": 5, "message": f"{path} not found"}

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """The tests look at `requests`."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{web.server_port}"
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def kubeflow_node(name: str, state: str, pod: str = "", **more: Any) -> dict[str, Any]:
    """A task's details as KFP reports them; nodes are those of its Argo workflow."""
    return {
        "run_id": "run-1",
        "task_id": f"{name}-id",
        "display_name": name,
        "state": state,
        "pod_name": pod,
        **more,
    }


class KubeflowRuns:
    """The runs of a Kubeflow Pipelines, all of the same state."""

    def __init__(self, state: str = "FAILED") -> None:
        self.state = state
        self.runs: dict[str, dict[str, Any]] = {}

    def routes(self) -> Routes:
        runs = "/apis/v2beta1/runs"
        return {
            ("GET", "/apis/v2beta1/experiments"): lambda: (200, {"experiments": []}),
            ("POST", "/apis/v2beta1/experiments"): lambda body: (
                200,
                {**body, "experiment_id": "experiment-1"},
            ),
            ("POST", runs): self._create,
            ("GET", f"{runs}/([^/]+)"): self._get,
            ("GET", "/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log"): self._log,
        }

    def _create(self, body: Any) -> Answer:
        run_id = f"run-{len(self.runs) + 1}"
        self.runs[run_id] = {**body, "run_id": run_id}
        return 200, self.runs[run_id]

    def _get(self, run_id: str) -> Answer:
        if run_id not in self.runs:
            return 404, {"code": 5, "message": f"run {run_id} not found"}
        nodes = [
            kubeflow_node("root", "RUNNING"),
            kubeflow_node("preflight-driver", "SUCCEEDED", "wf-driver-1"),
            kubeflow_node(
                "preflight",
                "SUCCEEDED",
                create_time="2026-11-23T12:00:00Z",
                child_tasks=[{"pod_name": "wf-impl-1"}, {"pod_name": "wf-driver-2"}],
            ),
            kubeflow_node("executor", "SUCCEEDED", "wf-impl-1"),
            kubeflow_node("start-run-driver", "SUCCEEDED", "wf-driver-2"),
            kubeflow_node(
                "start-run",
                "FAILED",
                create_time="2026-11-23T12:00:09Z",
                child_tasks=[{"pod_name": "wf-impl-2"}],
                error={"code": 2, "message": "main: Error (exit code 78)"},
            ),
            kubeflow_node("executor", "FAILED", "wf-impl-2"),
        ]
        details = {"task_details": nodes}
        return 200, {**self.runs[run_id], "state": self.state, "run_details": details}

    def _log(self, run_id: str, pod: str) -> Answer:
        return 200, f"first line of {run_id} {pod}\nsecond line\n"


class ArgoWorkflows:
    """The workflows of an Argo Server, all of the same phase."""

    def __init__(self, phase: str = "Failed") -> None:
        self.phase = phase
        self.workflows: dict[str, dict[str, Any]] = {}

    def routes(self) -> Routes:
        workflows = "/api/v1/workflows/rl"
        return {
            ("POST", workflows): self._create,
            ("GET", f"{workflows}/([^/]+)"): self._get,
            ("GET", f"{workflows}/([^/]+)/log"): self._log,
        }

    def _create(self, body: Any) -> Answer:
        workflow = body["workflow"]
        name = f"{workflow['metadata']['generateName']}{len(self.workflows) + 1}"
        workflow["metadata"]["name"] = name
        self.workflows[name] = workflow
        return 200, workflow

    def _get(self, name: str) -> Answer:
        if name not in self.workflows:
            return 404, {"code": 5, "message": f'workflows.argoproj.io "{name}" not found'}
        nodes = {
            name: {"id": name, "displayName": name, "type": "Steps", "phase": self.phase},
            f"{name}-11": {
                "id": f"{name}-11",
                "displayName": "preflight",
                "type": "Pod",
                "phase": "Succeeded",
                "startedAt": "2026-11-23T12:00:00Z",
            },
            f"{name}-22": {
                "id": f"{name}-22",
                "displayName": "start",
                "type": "Pod",
                "phase": "Failed",
                "startedAt": "2026-11-23T12:00:09Z",
                "message": "Error (exit code 78)",
            },
        }
        status = {"phase": self.phase, "message": "child failed", "nodes": nodes}
        return 200, {**self.workflows[name], "status": status}

    def _log(self, name: str) -> Answer:
        lines = [(f"{name}-preflight-11", "all is well"), (f"{name}-start-22", "a wrong key")]
        entries = [{"result": {"podName": pod, "content": text}} for pod, text in lines]
        return 200, "".join(f"{json.dumps(entry)}\n" for entry in entries)
