"""checkov's policies for Kubernetes, where it is installed (`pip install checkov`, 290 MB)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manifests.kustomize import VARIANTS, build

# What it finds and we leave, and why.
ACCEPTED = {
    "CKV_K8S_8": "liveness: workers end by themselves; see trainer.yaml. A Job has none",
    "CKV_K8S_9": "readiness: ranks other than 0 say nothing to anybody, and a Job serves nobody",
    "CKV_K8S_15": "imagePullPolicy Always: tags are versions, and kind has no registry to pull from",
    "CKV_K8S_35": "secrets as files: S3 clients read their keys from the environment",
    "CKV_K8S_43": "digests: of images that you push, you know them, not we",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("checkov") is None, reason="checkov is not installed")
def test_checkov_finds_nothing_that_is_not_accepted(tmp_path: Path) -> None:
    for variant in VARIANTS:
        file = tmp_path / f"{variant.replace('/', '-')}.yaml"
        file.write_text(yaml.safe_dump_all(build(variant)))
    command = ["checkov", "-d", str(tmp_path), "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run(
        [*command, "--soft-fail", "--compact", "-o", "json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert len(results["passed_checks"]) > 100, "it looked at something"
    found = {(check["check_id"], check["resource"]) for check in results["failed_checks"]}
    assert not {(name, resource) for name, resource in found if name not in ACCEPTED}
