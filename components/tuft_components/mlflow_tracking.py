"""MLflow, where the usual variables name one: what steps measured is logged there too.

MLFLOW_TRACKING_URI switches it on (http or https). The run is MLFLOW_RUN_ID; without that, steps of
one pipeline run find a run of theirs by a tag, in MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME.
MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD, are sent; MLFLOW_TRACKING_INSECURE_TLS and
MLFLOW_HTTP_REQUEST_TIMEOUT hold as in MLflow. It is spoken to by its REST API: no client is needed.

A step that is done stays done whatever MLflow says: what went wrong is told on stderr.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from tuft_components.work import Record

_TAG = "tuft.pipeline"
_TIMEOUT_S = 10.0
_LONGEST_PARAM, _LONGEST_TAG = 500, 5000
_STRANGE = re.compile(r"[^\w\-./ ]")
# They differ between the executions of a step, and MLflow's parameters may not.
_NO_PARAMS = frozenset(
    {"iteration", "first_iteration", "policy", "policy_version", "run_id", "shard", "step_key"}
    | {"policy_before", "checkpoint_before", "reward_before"}
    | {"timeout_s", "trajectories_uris", "work_uri"}
)


class TrackingFailed(Exception):
    """MLflow answered something else than it should, or is not named well."""


def track(record: Record) -> None:
    """Log a record, where MLFLOW_TRACKING_URI is set. Never fails."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return
    try:
        if not uri.startswith(("http://", "https://")):
            raise TrackingFailed("MLFLOW_TRACKING_URI must begin with http:// or https:// here")
        with _http(uri) as http:
            _log(_Mlflow(http), record)
        return
    except (httpx.HTTPError, httpx.InvalidURL, TrackingFailed) as error:
        text = str(error) or type(error).__name__
    except (LookupError, TypeError, ValueError) as error:
        text = f"an answer without {error} (another server?)"
    sys.stderr.write(f"the step {record.step} is done, but MLflow was not told: {text}\n")


def _http(uri: str) -> httpx.Client:
    env = os.environ
    headers, auth = {}, None
    if token := env.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    elif user := env.get("MLFLOW_TRACKING_USERNAME"):
        auth = httpx.BasicAuth(user, env.get("MLFLOW_TRACKING_PASSWORD", ""))
    try:
        timeout = float(env.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or _TIMEOUT_S)
    except ValueError as error:
        raise TrackingFailed(f"MLFLOW_HTTP_REQUEST_TIMEOUT is no number: {error}") from error
    insecure = env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true")
    return httpx.Client(
        base_url=f"{uri.rstrip('/')}/api/2.0/mlflow/",
        headers=headers,
        auth=auth,
        timeout=timeout,
        # Reading the certificates of the world takes a while; plain http, not redirected, needs none.
        verify=uri.startswith("https://") and not insecure,
    )


def _log(mlflow: _Mlflow, record: Record) -> None:
    given = os.environ.get("MLFLOW_RUN_ID", "")
    run_id = given or mlflow.run_of(_pipeline_of(record))
    prefix = f"{record.step}/" + (f"shard-{record.shard}/" if record.shard else "")
    when = int(record.finished_at * 1000)
    measured = {**record.metrics, "seconds": record.seconds}
    mlflow.post(
        "runs/log-batch",
        run_id=run_id,
        metrics=[
            {
                "key": _STRANGE.sub(".", prefix + name),
                "value": _number(value),
                "timestamp": when,
                "step": record.iteration,
            }
            for name, value in measured.items()
        ],
        tags=[
            {"key": f"{record.step}.{name}", "value": str(value)[:_LONGEST_TAG]}
            for name, value in record.values.items()
        ],
    )
    if not given:
        mlflow.post("runs/update", run_id=run_id, status="FINISHED", end_time=when)
    if record.iteration == 0 and record.shard == 0:
        params = [
            {"key": f"{record.step}.{name}", "value": str(value)[:_LONGEST_PARAM]}
            for name, value in record.params.items()
            if name not in _NO_PARAMS and value not in ("", {}, [])
        ]
        # Apart, and last: MLflow refuses them where the pipeline was submitted again with others.
        mlflow.post("runs/log-batch", run_id=run_id, params=params)


def _pipeline_of(record: Record) -> str:
    """What steps of one pipeline run have in common: its work_uri, or the training run."""
    if work_uri := str(record.params.get("work_uri") or ""):
        return work_uri.rstrip("/")
    for value in (*record.values.values(), *record.params.values()):
        if found := re.search(r"[\w-]+:train:\d+", str(value)):
            return found[0]
    raise TrackingFailed("which run is it? Set MLFLOW_RUN_ID, or give the step a work_uri")


def _number(value: float) -> float | str:
    """JSON has no names for these; MLflow reads protobuf's."""
    if value != value:
        return "NaN"
    return {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, value)


class _Mlflow:
    """The few calls of MLflow's REST API that are needed."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        return self._answer(self._http.post(path, json=body), f"POST {path}")

    def run_of(self, pipeline: str) -> str:
        """The run with the pipeline's tag; it is made where there is none."""
        experiment = self._experiment()
        digest = hashlib.sha256(pipeline.encode()).hexdigest()[:32]
        found = self._runs(experiment, digest)
        if not found:
            created = self.post(
                "runs/create",
                experiment_id=experiment,
                start_time=int(time.time() * 1000),
                run_name=os.environ.get("MLFLOW_RUN_NAME") or pipeline[-250:],
                tags=[{"key": _TAG, "value": digest}, {"key": "tuft.of", "value": pipeline}],
            )
            mine = str(created["run"]["info"]["run_id"])
            # Another step may have made one meanwhile: the older one is everybody's.
            found = self._runs(experiment, digest)
            if mine in found[1:]:
                self.post("runs/delete", run_id=mine)
        return found[0]

    def _runs(self, experiment: str, digest: str) -> list[str]:
        answer = self.post(
            "runs/search",
            experiment_ids=[experiment],
            filter=f"tags.`{_TAG}` = '{digest}'",
            max_results=100,
        )
        infos = [run["info"] for run in answer.get("runs", [])]
        infos.sort(key=lambda info: (int(info.get("start_time") or 0), str(info["run_id"])))
        return [str(info["run_id"]) for info in infos]

    def _experiment(self) -> str:
        if known := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name:
            return "0"  # MLflow's own default
        if (found := self._experiment_named(name)) is not None:
            return found
        created = self._http.post("experiments/create", json={"name": name})
        if created.status_code == httpx.codes.BAD_REQUEST:  # another step was faster
            found = self._experiment_named(name)
        if found is not None:
            return found
        return str(self._answer(created, "POST experiments/create")["experiment_id"])

    def _experiment_named(self, name: str) -> str | None:
        path = "experiments/get-by-name"
        response = self._http.get(path, params={"experiment_name": name})
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return str(self._answer(response, f"GET {path}")["experiment"]["experiment_id"])

    def _answer(self, response: httpx.Response, what: str) -> dict[str, Any]:
        if not response.is_success:
            raise TrackingFailed(f"{what}: {response.status_code}: {response.text[:300]}")
        try:
            body = response.json()
        except ValueError as error:
            raise TrackingFailed(f"{what}: the answer is no JSON (another server?)") from error
        if not isinstance(body, dict):
            raise TrackingFailed(f"{what}: the answer is no object (another server?)")
        return body
