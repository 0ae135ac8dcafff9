"""Manifests as YAML that Go reads as Python wrote it: the same manifests give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HEADER = (
    "# Made by `make generate` (python -m tuft_components.argo_plugin.manifest): do not edit.\n"
)

# Texts that PyYAML, which reads YAML 1.1, leaves without quotes, and that are numbers in YAML 1.2.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|0o[0-7]+|0x[0-9a-fA-F]+")


class _Dumper(yaml.SafeDumper):
    """Without anchors, and with texts of several lines as they are: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(content: Mapping[str, Any]) -> str:
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def write_manifests(folder: Path, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Write each to the file of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, manifest in manifests.items():
        (folder / name).write_text(HEADER + yaml_text(manifest))
