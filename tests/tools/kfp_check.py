"""Check compiled Kubeflow Pipelines IR offline.

The founders' kfp_check.py, typed, so that it is there wherever the tests are: each file is parsed
into KFP's own protobuf messages (unknown or mistyped fields are errors), then its references are
followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb2
from kfp.pipeline_spec import pipeline_spec_pb2


def findings(path: Path) -> Iterator[str]:
    """What is wrong with that file; nothing where it is sound."""
    documents = list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
    spec = documents[0]
    try:
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        yield f"not a PipelineSpec: {error}"
        return
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    yield from _of_dag("root", spec["root"]["dag"], components)
    for name, component in components.items():
        if "dag" in component:
            yield from _of_dag(name, component["dag"], components)
        elif component.get("executorLabel") not in executors:
            yield f"{name}: executor {component.get('executorLabel')!r} is not defined"
    for label, executor in executors.items():
        message = pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec()
        try:
            json_format.ParseDict(executor, message)
        except json_format.ParseError as error:
            yield f"executor {label}: {error}"
    for document in documents[1:]:
        yield from _of_platform(document or {}, executors)


def _of_dag(where: str, dag: dict[str, Any], components: dict[str, Any]) -> Iterator[str]:
    tasks = dag.get("tasks", {})
    for name, task in tasks.items():
        component = task.get("componentRef", {}).get("name")
        if component not in components:
            yield f"{where}.{name}: component {component!r} is not defined"
        upstream = list(task.get("dependentTasks", []))
        for values in task.get("inputs", {}).values():
            for value in values.values():
                upstream += [
                    value[key]["producerTask"]
                    for key in ("taskOutputParameter", "taskOutputArtifact")
                    if key in value
                ]
        for producer in upstream:
            if producer not in tasks:
                yield f"{where}.{name}: upstream task {producer!r} is not in this DAG"


def _of_platform(document: dict[str, Any], executors: dict[str, Any]) -> Iterator[str]:
    platform = document.get("platforms", {}).get("kubernetes", {})
    for label, config in platform.get("deploymentSpec", {}).get("executors", {}).items():
        if label not in executors:
            yield f"platform executor {label!r} is not in the pipeline"
        try:
            json_format.ParseDict(config, kubernetes_pb2.KubernetesExecutorConfig())
        except json_format.ParseError as error:
            yield f"platform executor {label}: {error}"
