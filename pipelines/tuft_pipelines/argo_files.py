"""A pipeline for Argo in one file: its WorkflowTemplate, and the library of steps that it calls."""

from __future__ import annotations

from pathlib import Path

from tuft_components.argo.files import yaml_text
from tuft_components.profile import Profile
from tuft_pipelines.argo import manifests
from tuft_pipelines.argo_server import workflow_template
from tuft_pipelines.errors import WrongArgument


def write_for_argo(name: str, profile: Profile, path: Path) -> None:
    """Write what `kubectl apply -f` takes.

    Raises:
        WrongArgument: there is no such pipeline for Argo, or the folder does not exist.
    """
    template = workflow_template(name, profile)
    libraries = [
        manifest
        for manifest in manifests(profile).values()
        if "entrypoint" not in manifest.get("spec", {})
    ]
    if not path.parent.is_dir():
        raise WrongArgument(f"{path}: the folder {path.parent} does not exist")
    path.write_text("---\n".join(yaml_text(manifest) for manifest in [*libraries, template]))
