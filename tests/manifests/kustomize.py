"""What `kubectl kustomize` makes of our folders, and what is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir() if path.is_dir())
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir() if path.is_dir())
# Each overlay, the base alone, and the base with each component.
VARIANTS = [
    "base",
    *(f"overlays/{name}" for name in OVERLAYS),
    *(f"components/{name}" for name in COMPONENTS),
]

Document = dict[str, Any]


@cache
def build(variant: str) -> tuple[Document, ...]:
    """All documents of a variant. Skips the test where kubectl is not installed."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = MANIFESTS / variant
    if not variant.startswith("components/"):
        return _built(folder)
    with tempfile.TemporaryDirectory() as made:
        here = Path(made).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "tuft",
            "resources": [os.path.relpath(MANIFESTS / "base", here)],
            "components": [os.path.relpath(folder, here)],
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _built(here)


def _built(folder: Path) -> tuple[Document, ...]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(variant: str, *kinds: str) -> dict[str, Document]:
    """By name."""
    found = [document for document in build(variant) if document["kind"] in kinds]
    return {document["metadata"]["name"]: document for document in found}


@dataclass(frozen=True)
class Workload:
    """A document that makes pods."""

    document: Document

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def template(self) -> Document:
        template: Document = self.document["spec"]["template"]
        return template

    @property
    def pod(self) -> Document:
        pod: Document = self.template["spec"]
        return pod

    @property
    def containers(self) -> list[Document]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    def env(self) -> dict[str, Document]:
        """The variables of the first container."""
        return {entry["name"]: entry for entry in self.containers[0].get("env", [])}


def workloads(variant: str) -> Iterator[Workload]:
    for document in build(variant):
        if document["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            yield Workload(document)


def workload(variant: str, name: str) -> Workload:
    return next(found for found in workloads(variant) if found.name == name)


def models_yaml(variant: str) -> str:
    """The text of the service's configuration, as its pods see it."""
    volumes = workload(variant, "tuft-api").pod["volumes"]
    name = next(entry["configMap"]["name"] for entry in volumes if entry["name"] == "config")
    text: str = of_kind(variant, "ConfigMap")[name]["data"]["models.yaml"]
    return text
