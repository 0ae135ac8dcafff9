"""The same pipelines, with the steps that Argo's executor plugin can execute called there."""

from __future__ import annotations

from typing import Any

from tuft_components.argo.step_templates import LIBRARY, template_name
from tuft_components.argo_plugin.calls import SERVICE_STEPS
from tuft_components.argo_plugin.manifest import LIBRARY as PLUGIN_LIBRARY

# An evaluation may need a user's own code, which only pods have.
_THERE = frozenset(template_name(step) for step in SERVICE_STEPS if step != "evaluate")


def without_pods(manifest: Any) -> Any:
    """A copy in which those steps are calls of the plugin's library: it takes and gives the same."""
    if isinstance(manifest, list):
        return [without_pods(item) for item in manifest]
    if not isinstance(manifest, dict):
        return manifest
    if manifest.get("name") == LIBRARY and manifest.get("template") in _THERE:
        return {**manifest, "name": PLUGIN_LIBRARY}
    return {key: without_pods(value) for key, value in manifest.items()}
