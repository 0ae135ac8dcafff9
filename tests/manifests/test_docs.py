"""What the documentation says of the manifests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.manifests.kustomize import COMPONENTS, MANIFESTS, OVERLAYS, ROOT
from tests.manifests.test_documents import SECRETS

README = (MANIFESTS / "README.md").read_text()
CLOUDS = (ROOT / "docs" / "clouds.md").read_text()


def test_every_folder_and_secret_is_in_the_readme() -> None:
    for name in COMPONENTS:
        assert f"`components/{name}`" in README
    for name in OVERLAYS:
        assert f"`{name}`" in README or f"`overlays/{name}`" in README
    for secret, keys in SECRETS.items():
        [row] = re.findall(rf"^\| `{secret}` \|.*$", README, re.MULTILINE)
        assert all(key in row for key in keys)


def test_an_overlay_of_the_user_builds_as_it_is_written(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    [text] = re.findall(r"<<END\n(.*?)\n +END\n", CLOUDS, re.DOTALL)
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    mine = tmp_path / "my-cluster"
    mine.mkdir()
    shutil.copy(MANIFESTS / "overlays" / "aws" / "models.yaml", mine)
    lines = [line.removeprefix("   ") for line in text.splitlines()]
    (mine / "kustomization.yaml").write_text("\n".join(lines))
    done = subprocess.run(["kubectl", "kustomize", str(mine)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "image: YOUR-REGISTRY/tuft-pipelines/service-cuda:" in done.stdout
    assert "registry.example.com" not in done.stdout


def test_links_lead_somewhere() -> None:
    for file in (
        MANIFESTS / "README.md",
        MANIFESTS / "images" / "README.md",
        ROOT / "docs" / "clouds.md",
    ):
        for target in re.findall(r"\]\((?!https?://)([^)#]*)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
