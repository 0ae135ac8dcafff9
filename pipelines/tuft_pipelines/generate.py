"""`python -m tuft_pipelines.generate`: write manifests/kfp, from the ready pipelines.

For each pipeline the IR, to upload, and the same as objects of Kubernetes (`Pipeline` and
`PipelineVersion`), for a Kubeflow Pipelines whose pipelines are kept that way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tuft_components.profile import Profile
from tuft_pipelines.catalogue import NAMES, ready_pipeline
from tuft_pipelines.compiling import compile_pipeline
from tuft_pipelines.faces import container_faces

COMMITTED = Path(__file__).parents[2] / "manifests" / "kfp"
_NATIVE_API = "pipelines.kubeflow.org/v2beta1"


def write_all(folder: Path, profile: Profile) -> None:
    """The files below `folder`, with the settings of `profile`; others there are removed."""
    native = folder / "native"
    native.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.yaml"), *native.glob("*.yaml")):
        old.unlink()
    for name in NAMES:
        pipeline = ready_pipeline(name)
        file = folder / f"{name}.yaml"
        compile_pipeline(pipeline.build(container_faces(profile)), file)
        objects = native_objects(name, pipeline.summary, file.read_text(), profile)
        text = yaml.dump_all(objects, Dumper=yaml.CSafeDumper, sort_keys=False)
        (native / file.name).write_text(text)


def native_objects(name: str, summary: str, ir: str, profile: Profile) -> list[dict[str, Any]]:
    """`Pipeline` and `PipelineVersion` of that IR; the version is the tag of the steps' image."""
    spec, platform = yaml.load_all(ir, yaml.CSafeLoader)
    pipeline = f"tuft-{name.replace('_', '-')}"
    version = profile.image.rpartition(":")[2].partition("@")[0].lower()
    return [
        {
            "apiVersion": _NATIVE_API,
            "kind": "Pipeline",
            "metadata": {"name": pipeline},
            "spec": {"description": summary},
        },
        {
            "apiVersion": _NATIVE_API,
            "kind": "PipelineVersion",
            "metadata": {"name": f"{pipeline}-{version}"},
            "spec": {
                "pipelineName": pipeline,
                "displayName": version,
                "description": summary,
                "pipelineSpec": spec,
                "platformSpec": platform,
            },
        },
    ]


if __name__ == "__main__":
    write_all(COMMITTED, Profile())
