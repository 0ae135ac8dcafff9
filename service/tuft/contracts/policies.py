"""How a policy is named: where its adapter is, and which content is meant.

A checkpoint may be overwritten, or deleted and made again, under the same prefix. A policy
named with its content is another one then, so that no sampler serves one for the other.
"""

from __future__ import annotations

from tuft.contracts.records import CheckpointManifest

Content = bytes | memoryview
"""What a file of a policy holds: in memory of its own, or of a mapped file."""

_WEIGHTS = "adapter_model.safetensors"
_MARK = "#"
_DIGITS = 16


def policy_name(prefix: str, manifest: CheckpointManifest) -> str:
    """The name of the policy at `prefix` with the content that `manifest` describes."""
    return f"{prefix}{_MARK}{_digest(manifest)}"


def policy_prefix(policy: str) -> str:
    """The object prefix of a policy; a bare prefix (content never replaced) is a name too."""
    return policy.partition(_MARK)[0]


def is_of(policy: str, manifest: CheckpointManifest) -> bool:
    """Whether the manifest describes the content that the name means."""
    _, mark, digest = policy.partition(_MARK)
    return not mark or digest == _digest(manifest)


def _digest(manifest: CheckpointManifest) -> str:
    return manifest.files[_WEIGHTS].sha256[:_DIGITS]
