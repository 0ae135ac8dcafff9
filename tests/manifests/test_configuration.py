"""The configuration in the manifests is one that the code reads, and fits the rest of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from tests.manifests.kustomize import (
    ROOT,
    VARIANTS,
    Workload,
    models_yaml,
    of_kind,
    workload,
    workloads,
)
from tuft.api.server import _GRACE_S
from tuft.config import ServiceConfig, load_config
from tuft.store import keys
from tuft.supervisor.pod import MODULES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What an interpreter takes to end after the work is done.
MARGIN_S = 10


def configuration(variant: str, tmp_path: Path) -> ServiceConfig:
    """As the pods read it; the folder of the models is on their volume, not on this machine."""
    (tmp_path / "models").mkdir(exist_ok=True)
    text = models_yaml(variant)
    for model in yaml.safe_load(text)["supported_models"]:
        folder = tmp_path / model["model_path"].lstrip("/")
        folder.mkdir(exist_ok=True)
    file = tmp_path / "models.yaml"
    file.write_text(text.replace(" /models/", f" {tmp_path}/models/"))
    return load_config(file)


def value(found: Workload, name: str) -> str:
    text: str = found.env()[name]["value"]
    return text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_service_reads_it(variant: str, tmp_path: Path) -> None:
    config = configuration(variant, tmp_path)
    assert config.persistence.redis_url == "redis://tuft-valkey:6379/0"
    assert config.object_store.kind == "s3"
    assert not config.api_keys
    assert not config.object_store.secret_key
    services = of_kind(variant, "Service")
    assert services["tuft-valkey"]["spec"]["ports"][0]["port"] == 6379
    if config.object_store.endpoint == "tuft-minio:9000" and "tuft-minio" in services:
        assert services["tuft-minio"]["spec"]["ports"][0]["port"] == 9000
        assert not config.object_store.secure
    elif config.object_store.endpoint != "tuft-minio:9000":
        assert config.object_store.secure, "keys and weights would cross the network openly"


@pytest.mark.parametrize("variant", VARIANTS)
def test_workers_serve_a_model_of_it(variant: str, tmp_path: Path) -> None:
    config = configuration(variant, tmp_path)
    for role in ("trainer", "sampler"):
        found = workload(variant, f"tuft-{role}")
        model = config.model(value(found, "TUFT_MODEL"))
        mounts = {
            mount["name"]: mount["mountPath"] for mount in found.containers[0]["volumeMounts"]
        }
        assert f"{mounts['models']}/" in model.model_path
        assert mounts["run"] == "/run/tuft"
        assert value(found, "TUFT_STATE_FOLDER") == mounts["state"]
        assert value(found, "XDG_CACHE_HOME") == mounts["cache"]
        for job in of_kind(variant, "Job").values():
            download = Workload(job)
            assert value(download, "MODEL_REPO") == model.model_name
            assert model.model_path.endswith(f"/models/{value(download, 'MODEL_FOLDER')}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_have_the_time_to_finish(variant: str, tmp_path: Path) -> None:
    config = configuration(variant, tmp_path)
    for role in ("trainer", "sampler"):
        grace = workload(variant, f"tuft-{role}").pod["terminationGracePeriodSeconds"]
        assert grace >= config.limits.stop_grace_s + MARGIN_S
    api = workload(variant, "tuft-api")
    pause = float(api.containers[0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert api.pod["terminationGracePeriodSeconds"] >= pause + _GRACE_S + MARGIN_S


@pytest.mark.parametrize("variant", VARIANTS)
def test_roles_and_images_are_ours(variant: str) -> None:
    for found in workloads(variant):
        [container] = found.containers
        name, _, tag = container["image"].rpartition(":")
        if "tuft-pipelines/" in name:
            assert tag == PROJECT["version"]
            # The sandbox runner is in the image of the steps.
            images = ["steps"] if found.name == "tuft-sandbox" else ["service-cpu", "service-cuda"]
            assert name.rpartition("/")[2] in images
        if container["command"][:3] == ["python", "-m", "tuft.supervisor.pod"]:
            [role] = container["command"][3:]
            assert f"tuft-{role}" == found.name
            assert role in MODULES
            if role != "api" and "readinessProbe" in container:
                probe = container["readinessProbe"]["exec"]["command"]
                assert probe == ["python", "-m", "tuft.supervisor.pod", "ready", role]


def test_the_cpu_component_leaves_no_accelerator_and_others_have_one() -> None:
    for variant in VARIANTS:
        for role in ("trainer", "sampler"):
            [container] = workload(variant, f"tuft-{role}").containers
            on_cpu = variant in ("components/cpu", "overlays/local")
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) != on_cpu
            assert ("service-cpu:" in container["image"]) == on_cpu


def test_clouds_place_workers_on_their_accelerators() -> None:
    for cloud in ("gcp", "aws", "azure", "alibaba"):
        for role in ("trainer", "sampler"):
            pod = workload(f"overlays/{cloud}", f"tuft-{role}").pod
            assert len(pod["nodeSelector"]) == 1
            [toleration] = pod["tolerations"]
            assert toleration["operator"] == "Exists"
        for claim in of_kind(f"overlays/{cloud}", "PersistentVolumeClaim").values():
            assert claim["spec"]["storageClassName"]
        [claim] = workload(f"overlays/{cloud}", "tuft-valkey").document["spec"][
            "volumeClaimTemplates"
        ]
        assert claim["spec"]["storageClassName"]


def test_ranks_meet_at_the_first_pod() -> None:
    found = workload("components/trainer-ranks", "tuft-trainer")
    spec = found.document["spec"]
    assert value(found, "WORLD_SIZE") == str(spec["replicas"])
    assert value(found, "MASTER_ADDR") == f"{found.name}-0.{spec['serviceName']}"
    [port] = of_kind("components/trainer-ranks", "Service")["tuft-trainer"]["spec"]["ports"]
    assert value(found, "MASTER_PORT") == str(port["port"])
    # Kubernetes 1.31's label of a StatefulSet's pods; without it, all would be rank 0.
    path = found.env()["RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert spec["podManagementPolicy"] == "Parallel", "rank 0 waits for the others"


def test_keda_looks_at_the_keys_that_the_service_writes(tmp_path: Path) -> None:
    variant = "components/keda"
    model = configuration(variant, tmp_path).supported_models[0].model_name
    scaled = of_kind(variant, "ScaledObject")
    asked = {
        name: [
            trigger["metadata"].get("listName") or trigger["metadata"]["stream"]
            for trigger in entry["spec"]["triggers"]
        ]
        for name, entry in scaled.items()
    }
    assert asked == {
        "tuft-trainer": [keys.pending_runs(model)],
        "tuft-sampler": [keys.sample_counts(model), keys.samples(model)],
    }
    for entry in scaled.values():
        for trigger in entry["spec"]["triggers"]:
            assert trigger["metadata"]["address"] == "tuft-valkey.tuft.svc:6379"
            assert trigger["authenticationRef"]["name"] in of_kind(variant, "TriggerAuthentication")
