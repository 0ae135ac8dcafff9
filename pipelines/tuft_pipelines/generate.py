"""`python -m tuft_pipelines.generate`: write the ready pipelines for Kubeflow.

python -m tuft_pipelines.generate --profile profile.yaml --output kfp/

For each pipeline the IR, to upload, and the same as objects of Kubernetes (`Pipeline` and
`PipelineVersion`), for a Kubeflow Pipelines whose pipelines are kept that way.
"""

from __future__ import annotations

import argparse
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
    """The files below `folder`, with the settings of `profile`."""
    native = folder / "native"
    native.mkdir(parents=True, exist_ok=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tuft_pipelines.generate", description=__doc__)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="settings of your cluster")
    parser.add_argument("--output", type=Path, default=COMMITTED, metavar="DIR", help="%(default)s")
    options = parser.parse_args()
    write_all(options.output, Profile.load(options.profile) if options.profile else Profile())


if __name__ == "__main__":
    main()
