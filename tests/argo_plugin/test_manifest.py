"""The plugin's manifests: as Kubernetes and Argo want them, and up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.argo.manifest_checks import findings
from tuft_components.argo_plugin.calls import SERVICE_STEPS
from tuft_components.argo_plugin.executions import Limits
from tuft_components.argo_plugin.manifest import (
    FOLDER,
    config_map,
    library,
    main,
    manifests,
    sidecar,
)
from tuft_components.profile import Profile
from tuft_components.steps import load_step

ROOT = Path(__file__).parents[2]


def test_the_files_are_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["manifest", "--out", str(tmp_path)])
    main()
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / FOLDER).iterdir()}
    assert made == kept, "run `make generate`"


def test_kubernetes_takes_them() -> None:
    for name, manifest in manifests(Profile(), workers=4, memory="2Gi").items():
        if manifest["apiVersion"].startswith(("v1", "rbac")):
            kubernetes_validate.validate(manifest, "1.33", strict=True)
            assert name in (ROOT / FOLDER / "kustomization.yaml").read_text()


def test_argo_takes_the_library() -> None:
    assert findings([library(Profile())]) == []


def test_the_sidecar_is_what_argo_demands() -> None:
    """Argo reads the text strictly as a container, and wants four things in it."""
    data = config_map(Profile(), workers=2, memory="1Gi")["data"]
    container: dict[str, Any] = yaml.safe_load(data["sidecar.container"])
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent"},
        "spec": {"containers": [container]},
    }
    kubernetes_validate.validate(pod, "1.33", strict=True)
    assert container["ports"][0]["containerPort"] > 10_000
    assert container["resources"]["requests"]
    assert container["resources"]["limits"]
    assert container["securityContext"]["runAsUser"] == 8737, "else it can't read the token"
    assert "volumeMounts" not in container, "the agent pod has no volumes of ours"
    assert data["sidecar.automountServiceAccountToken"] == "false"


def test_the_sidecar_has_the_settings_of_the_profile() -> None:
    profile = Profile.model_validate(
        {
            "image": "registry.example.com/steps:2",
            "env": {"AWS_REGION": "eu-1"},
            "secrets": {"TINKER_API_KEY": {"secret": "mine", "key": "token"}},
        }
    )
    container = sidecar(profile, workers=7, memory="3Gi")
    assert container["image"] == "registry.example.com/steps:2"
    assert "--workers=7" in container["args"]
    assert {"name": "AWS_REGION", "value": "eu-1"} in container["env"]
    key = {"name": "mine", "key": "token"}
    assert {"name": "TINKER_API_KEY", "valueFrom": {"secretKeyRef": key}} in container["env"]


@pytest.mark.parametrize("name", SERVICE_STEPS)
def test_a_template_passes_everything_to_the_step(name: str) -> None:
    step = load_step(name)
    templates = {item["name"]: item for item in library(Profile())["spec"]["templates"]}
    template = templates[name.replace("_", "-")]
    content = template["plugin"]["tuft"]
    assert list(content["params"]) == list(step.params.model_fields)
    assert list(content.get("inputs", {})) == list(step.inputs.model_fields)
    declared = {item["name"] for item in template["inputs"]["parameters"]}
    used = set(re.findall(r"inputs\.parameters\.([\w-]+)", yaml.safe_dump(content)))
    assert used == declared
    kinds = step.output_kinds()
    given = {item["name"] for item in template["outputs"]["parameters"]}
    assert {n for n, kind in kinds.items() if kind != "artifact"} <= given <= set(kinds)


def test_manifests_are_made_without_the_server() -> None:
    """Not everybody who makes them runs the plugin; and in its place there is a clear word."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('starlette', 'uvicorn', 'kfp', 'tinker')));"
        "import tuft_components.argo_plugin.manifest, tuft_components.argo_plugin.cli as cli;"
        "cli.find_spec = lambda name: None; sys.exit(cli.main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 78
    assert "pip install 'tuft-pipelines[argo]'" in done.stderr


def test_the_retry_policy_is_that_of_the_exit_codes() -> None:
    template = library(Profile())["spec"]["templates"][0]
    assert "in [-1,75,137,143]" in template["retryStrategy"]["expression"]


def test_the_sidecar_runs_as_many_steps_as_the_command_does() -> None:
    text = (ROOT / FOLDER / "configmap.yaml").read_text()
    assert f"--workers={Limits().workers}" in text
