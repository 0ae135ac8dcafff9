"""What we use of MLflow's REST API, over real HTTP and in memory: MLflow itself is not installed.

It is as strict as MLflow where that matters: parameters do not change, names are checked.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_KEY = re.compile(r"[\w\-./ ]{1,250}")
_NUMBERS = (int, float)


class Refused(Exception):
    """With a status and MLflow's error code."""


@dataclass
class Run:
    run_id: str
    experiment_id: str
    start_time: int
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, int, float | str]] = field(default_factory=list)
    status: str = "RUNNING"
    deleted: bool = False


@dataclass
class MlflowServer:
    """`rival_with_next`: another client makes its run between our search and our creation."""

    url: str = ""
    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    authorization: list[str] = field(default_factory=list)
    rival_with_next: bool = False

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        name = path.removeprefix("/api/2.0/mlflow/").replace("/", "_").replace("-", "_")
        found: dict[str, Any] = getattr(self, name)(**body)
        return found

    def experiments_get_by_name(self, experiment_name: str) -> dict[str, Any]:
        if experiment_name not in self.experiments:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        return {"experiment": {"experiment_id": self.experiments[experiment_name]}}

    def experiments_create(self, name: str) -> dict[str, Any]:
        if name in self.experiments:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS")
        self.experiments[name] = str(len(self.experiments) + 1)
        return {"experiment_id": self.experiments[name]}

    def runs_create(
        self, experiment_id: str, run_name: str, start_time: int, tags: list[dict[str, str]]
    ) -> dict[str, Any]:
        if self.rival_with_next:
            self.rival_with_next = False
            self.runs_create(experiment_id, "rival", start_time - 5, tags)
        run_id = f"run{len(self.runs)}"
        pairs = {tag["key"]: tag["value"] for tag in tags}
        self.runs[run_id] = Run(run_id, experiment_id, start_time, pairs)
        return {"run": {"info": {"run_id": run_id}}}

    def runs_search(
        self,
        experiment_ids: list[str],
        filter: str,  # noqa: A002  # its name in the API
        max_results: int,
    ) -> dict[str, Any]:
        match = re.fullmatch(r"tags\.`([\w.]+)` = '(\w+)'", filter)
        assert match, filter
        found = [
            {"info": {"run_id": run.run_id, "start_time": run.start_time}}
            for run in reversed(self.runs.values())
            if run.experiment_id in experiment_ids
            and run.tags.get(match[1]) == match[2]
            and not run.deleted
        ]
        return {"runs": found[:max_results]} if found else {}

    def runs_delete(self, run_id: str) -> dict[str, Any]:
        self.runs[run_id].deleted = True
        return {}

    def runs_update(self, run_id: str, status: str, end_time: int) -> dict[str, Any]:
        self.runs[run_id].status = status
        return {"run_info": {"end_time": end_time}}

    def runs_log_batch(
        self,
        run_id: str,
        metrics: list[dict[str, Any]] | None = None,
        params: list[dict[str, str]] | None = None,
        tags: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        if run_id not in self.runs:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        run = self.runs[run_id]
        for metric in metrics or []:
            value = metric["value"]
            named = value in ("NaN", "Infinity", "-Infinity")
            if not _KEY.fullmatch(metric["key"]) or not (named or isinstance(value, _NUMBERS)):
                raise Refused(400, f"INVALID_PARAMETER_VALUE {metric}")
            run.metrics.append((metric["key"], metric["step"], value))
        for param in params or []:
            if run.params.get(param["key"], param["value"]) != param["value"]:
                raise Refused(400, f"INVALID_PARAMETER_VALUE Changing param values: {param['key']}")
            run.params[param["key"]] = param["value"]
        run.tags |= {tag["key"]: tag["value"] for tag in tags or []}
        return {}


@contextmanager
def mlflow_server() -> Iterator[MlflowServer]:
    state = MlflowServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name that http.server looks up
            parts = urlsplit(self.path)
            self._reply(parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()})

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            self._reply(self.path, json.loads(self.rfile.read(length)))

        def _reply(self, path: str, body: dict[str, Any]) -> None:
            state.authorization.append(self.headers.get("authorization", ""))
            status, answer = 200, {}
            try:
                answer = state.answer(path, body)
            except Refused as error:
                status, answer = error.args[0], {"error_code": error.args[1]}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet: a test looks at the state."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
