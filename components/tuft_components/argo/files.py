"""Manifests as YAML files: the same manifests give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HEADER = "# Made by `make generate` (python -m tuft_pipelines.argo): do not edit.\n"
_LIKE_A_NUMBER = re.compile(r"[-+.]?\d[\d_.eE+-]*")


class _Dumper(yaml.SafeDumper):
    """Without anchors: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML reads `1e30` as a text and writes it as one; Kubernetes reads a number there.
    style = "'" if _LIKE_A_NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def text_of(manifest: Mapping[str, Any]) -> str:
    body = yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return HEADER + body


def write_manifests(folder: Path, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Write each to the file of its name, and remove other YAML files that were made so."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.yaml"):
        if path.name not in manifests and path.read_text().startswith(HEADER):
            path.unlink()
    for name, manifest in manifests.items():
        (folder / name).write_text(text_of(manifest))
