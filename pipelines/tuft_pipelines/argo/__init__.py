"""Pipelines as WorkflowTemplates of Argo Workflows 4, with the library of steps that they call."""

from __future__ import annotations

from typing import Any

from tuft_components.argo.step_templates import library
from tuft_components.profile import Profile
from tuft_pipelines.argo.executor_plugin import without_pods
from tuft_pipelines.argo.fine_tuning import sft_then_rl
from tuft_pipelines.argo.publishing import evaluate_and_promote
from tuft_pipelines.argo.rescoring import rescore_and_update
from tuft_pipelines.argo.segments import grpo
from tuft_pipelines.argo.split_steps import grpo_split

_PIPELINES = (grpo, grpo_split, sft_then_rl, rescore_and_update, evaluate_and_promote)


def manifests(profile: Profile, *, plugin: bool = False) -> dict[str, dict[str, Any]]:
    """File name → manifest, of everything for that cluster.

    Args:
        plugin: the steps that Argo's executor plugin can execute are called there, not as pods.
    """
    pipelines = [pipeline(profile) for pipeline in _PIPELINES]
    if plugin:
        pipelines = [without_pods(pipeline) for pipeline in pipelines]
    found = [library(profile), *pipelines]
    return {f"{manifest['metadata']['name']}.yaml": manifest for manifest in found}
