"""Checkpoints in the object store: files, and a manifest that makes them one."""

from tuft.checkpoints.checkpoints import MANIFEST, SETTINGS, Checkpoints
from tuft.checkpoints.paths import KINDS, CheckpointPath, check_name, parse_path, prefix_of

__all__ = [
    "KINDS",
    "MANIFEST",
    "SETTINGS",
    "CheckpointPath",
    "Checkpoints",
    "check_name",
    "parse_path",
    "prefix_of",
]
