"""Compile a pipeline to KFP IR, which any Kubeflow Pipelines 2 cluster takes.

KFP's compiler writes a component and an executor for every task, also where twenty tasks are of
the same step: 300 KB for 20 iterations, and a workflow on the cluster may have about 1 MB. Here
equal ones are written once. The tasks refer to them by name anyway, and KFP's backend visits each
component once, however many tasks refer to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tuft_pipelines.errors import WrongArgument


def compile_pipeline(pipeline: Any, path: Path) -> None:
    """Write the pipeline's IR as YAML; the same pipeline gives the same bytes.

    Raises:
        WrongArgument: `path` does not end in .yaml, or its folder does not exist.
    """
    from kfp import compiler

    if path.suffix != ".yaml":
        raise WrongArgument(f"{path}: the file name must end in .yaml")
    if not path.parent.is_dir():
        raise WrongArgument(f"{path}: the folder {path.parent} does not exist")
    compiler.Compiler().compile(pipeline, str(path))
    path.write_text(_merged(path.read_text()))


def _merged(text: str) -> str:
    """The IR `text` with equal components and executors written once."""
    # KFP begins with comments that tell people the inputs.
    lines = text.splitlines(keepends=True)
    header = "".join(line for line in lines if line.startswith("#"))
    documents = list(yaml.load_all(text, yaml.CSafeLoader))
    spec = documents[0]
    configs: dict[str, Any] = {}
    if len(documents) > 1:
        configs = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = spec["deploymentSpec"]["executors"]
    kept = _representatives(spec["components"], executors, configs)
    for name, other in kept.items():
        if name != other:
            label = spec["components"].pop(name)["executorLabel"]
            del executors[label]
            configs.pop(label, None)
    for task in spec["root"]["dag"]["tasks"].values():
        reference = task["componentRef"]
        reference["name"] = kept.get(reference["name"], reference["name"])
    return header + yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=True)


def _representatives(
    components: dict[str, Any], executors: dict[str, Any], configs: dict[str, Any]
) -> dict[str, str]:
    """Name of each component that is executed → name of the first that is equal to it."""
    first: dict[str, str] = {}
    kept = {}
    for name in sorted(components, key=lambda name: (len(name), name)):
        label = components[name].get("executorLabel")
        if label is None:
            continue
        content = [
            {**components[name], "executorLabel": ""},
            executors[label],
            configs.get(label),
        ]
        kept[name] = first.setdefault(json.dumps(content, sort_keys=True), name)
    return kept
