"""Examples of how the WorkflowTemplates are used: to be copied and changed."""

from __future__ import annotations

from typing import Any

from tuft_components.argo.step_templates import API_VERSION

_NIGHT_S = 8 * 3600


def train_at_night() -> dict[str, Any]:
    """Every night goes on where the last one ended, since the name is the same."""
    arguments = {"name": "assistant", "iterations": "500", "stop_at_reward": "0.9"}
    return {
        "apiVersion": API_VERSION,
        "kind": "CronWorkflow",
        "metadata": {"name": "tuft-train-at-night"},
        "spec": {
            "schedules": ["0 22 * * *"],
            "timezone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 7,
            # A night that ends by its deadline has failed; one that succeeded has reached the goal.
            "stopStrategy": {"expression": "cronworkflow.succeeded >= 1"},
            "workflowSpec": {
                "workflowTemplateRef": {"name": "tuft-grpo"},
                "activeDeadlineSeconds": _NIGHT_S,
                "arguments": {
                    "parameters": [{"name": n, "value": v} for n, v in arguments.items()]
                },
            },
        },
    }


def examples() -> dict[str, dict[str, Any]]:
    """File name → manifest."""
    return {"examples/train-at-night.yaml": train_at_night()}
