"""Manifests as YAML files: the same manifests give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HEADER = "# Made by `make generate` (python -m tuft_pipelines.argo): do not edit.\n"
# Texts that PyYAML, which reads YAML 1.1, may leave without quotes, and that are numbers in YAML 1.2.
_LIKE_A_NUMBER = re.compile(r"[-+.]?\d[\d_.eE+-]*|0o[0-7]+|0x[0-9a-fA-F]+")


class _Dumper(yaml.SafeDumper):
    """Without anchors, and with texts of several lines as they are: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML reads `1e30` as a text and writes it as one; Kubernetes reads a number there.
    style = "|" if "\n" in text else "'" if _LIKE_A_NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(manifest: Mapping[str, Any]) -> str:
    """A document of YAML that Kubernetes reads as it was meant, which `yaml.safe_dump` is not."""
    return yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def text_of(manifest: Mapping[str, Any], header: str = HEADER) -> str:
    """The text of the manifest's committed file."""
    return header + yaml_text(manifest)


def write_manifests(
    folder: Path, manifests: Mapping[str, Mapping[str, Any]], header: str = HEADER
) -> None:
    """Write each to the file of its name, and remove those that were made so and are no more.

    `header` begins each file, and says who made it.
    """
    for path in folder.rglob("*.yaml"):
        if path.relative_to(folder).as_posix() not in manifests and _begins(path, header):
            path.unlink()
    for name, manifest in manifests.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(manifest, header))


def _begins(path: Path, header: str) -> bool:
    return path.read_text().startswith(header)
