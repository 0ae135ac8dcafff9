"""Compile a pipeline to KFP IR, which any Kubeflow Pipelines 2 cluster takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
