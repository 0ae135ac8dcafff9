"""How policy versions are called."""

from __future__ import annotations


def policy_name(version: int) -> str:
    """The checkpoint name of the policy after `version` updates."""
    return f"policy-{version:06d}"
