"""Pipelines as WorkflowTemplates of Argo Workflows 4, with the library of steps that they call."""

from __future__ import annotations

from typing import Any

from tuft_components.argo.step_templates import library
from tuft_components.profile import Profile
from tuft_pipelines.argo.grpo import grpo
from tuft_pipelines.argo.train_loop import train_loop


def manifests(profile: Profile) -> dict[str, dict[str, Any]]:
    """File name → manifest, of everything for that cluster."""
    found = [library(profile), grpo(profile), train_loop(profile)]
    return {f"{manifest['metadata']['name']}.yaml": manifest for manifest in found}
