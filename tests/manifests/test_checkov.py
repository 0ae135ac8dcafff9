"""checkov's policies for Kubernetes, where it is installed (`pip install checkov`, 290 MB)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manifests.kustomize import MANIFESTS, VARIANTS, build

# What it finds and we leave, and why.
ACCEPTED = {
    "CKV_K8S_8": "liveness: workers end by themselves; see trainer.yaml. A Job has none",
    "CKV_K8S_9": "readiness: ranks other than 0 say nothing to anybody, and a Job serves nobody",
    "CKV_K8S_15": "imagePullPolicy Always: tags are versions, and kind has no registry to pull from",
    "CKV_K8S_31": "seccomp: it knows RuntimeDefault only, and the sandbox runner's pods name a profile "
    "of ours; tests/manifests/test_security.py looks at those of all",
    "CKV_K8S_35": "secrets as files: S3 clients read their keys from the environment",
    "CKV_K8S_43": "digests: of images that you push, you know them, not we",
}


# Of what Argo is given.
ACCEPTED_OF_ARGO = {
    "CKV_ARGO_1": "the account is the profile's (`service_account`): we know none of your namespace",
    "CKV_ARGO_2": "of libraries it looks at the workflow; theirs says it template by template",
    "CKV_K8S_21": "the namespace is that of your workflows: kubectl's -n or your kustomization",
    "CKV_K8S_42": "the account of Argo's agent is the workflow's, which is `default` where none is named",
}

needs_checkov = pytest.mark.skipif(
    shutil.which("checkov") is None,
    reason="checkov is not installed: pip install checkov, in an environment of its own on PATH",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_checkov
def test_checkov_finds_nothing_that_is_not_accepted(tmp_path: Path) -> None:
    for variant in VARIANTS:
        file = tmp_path / f"{variant.replace('/', '-')}.yaml"
        file.write_text(yaml.safe_dump_all(build(variant)))
    passed, found = _checked(tmp_path, "kubernetes")
    assert passed > 1000, "it looked at everything"
    assert not {finding for finding in found if finding[0] not in ACCEPTED}


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_checkov
def test_checkov_and_what_argo_is_given() -> None:
    passed, found = _checked(MANIFESTS / "argo", "kubernetes", "argo_workflows")
    assert passed > 10, "it looked at something"
    assert not {finding for finding in found if finding[0] not in ACCEPTED_OF_ARGO}


def _checked(folder: Path, *frameworks: str) -> tuple[int, set[tuple[str, str]]]:
    """How many checks passed, and which failed at what."""
    command = ["checkov", "-d", str(folder), "--framework", *frameworks, "--skip-download"]
    done = subprocess.run(
        [*command, "--soft-fail", "--compact", "-o", "json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    reports = said if isinstance(said, list) else [said]
    failed = [check for report in reports for check in report["results"]["failed_checks"]]
    passed = sum(int(report["summary"]["passed"]) for report in reports)
    return passed, {(check["check_id"], check["resource"]) for check in failed}
