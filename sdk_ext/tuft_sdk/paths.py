"""tinker:// paths of what a training run saves."""

from __future__ import annotations


def sampler_path(run_id: str, name: str) -> str:
    """Of a policy that can be sampled from."""
    return f"tinker://{run_id}/sampler_weights/{name}"


def checkpoint_path(run_id: str, name: str) -> str:
    """Of a training checkpoint: weights and optimizer."""
    return f"tinker://{run_id}/weights/{name}"
