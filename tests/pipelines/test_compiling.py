"""What a Kubeflow cluster gets. Nothing here needs a cluster, or torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from tuft_components.profile import Profile, SecretKey, StepSettings, Toleration
from tuft_pipelines.compiling import compile_pipeline
from tuft_pipelines.demo_pipeline import build_demo
from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.faces import container_faces, local_faces

CLIENT = ("TINKER_BASE_URL", "TINKER_API_KEY")
PROFILE = Profile(
    image="registry/steps:7",
    image_pull_policy="Always",
    image_pull_secrets=("registry-key",),
    env={"AWS_ENDPOINT_URL": "http://minio:9000"},
    secrets={name: SecretKey(secret="our-secret", key=name) for name in CLIENT},
    steps={
        "default": StepSettings(tolerations=(Toleration(key="spot", operator="Exists"),)),
        "rollout": StepSettings(
            cpu="500m",
            cpu_limit="3",
            memory="4Gi",
            retries=9,
            timeout_s=60,
            node_selector={"pool": "big"},
            labels={"team": "rl"},
            annotations={"note": "x"},
        ),
        "feedback": StepSettings(caching=True),
    },
)


@pytest.fixture
def compiled(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "demo.yaml"
    faces = container_faces(PROFILE)
    compile_pipeline(build_demo(faces, 3), path)
    return list(yaml.safe_load_all(path.read_text()))


def upstreams(task: dict[str, Any]) -> Iterator[str]:
    yield from task.get("dependentTasks", [])
    for values in task.get("inputs", {}).values():
        for value in values.values():
            for reference in value.values():
                if isinstance(reference, dict) and "producerTask" in reference:
                    yield reference["producerTask"]


def test_it_is_a_pipeline_spec_with_sound_references(compiled: list[dict[str, Any]]) -> None:
    spec = compiled[0]
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    executors = spec["deploymentSpec"]["executors"]
    tasks = spec["root"]["dag"]["tasks"]
    assert len(tasks) == 1 + 2 + 3 * 3
    for task in tasks.values():
        component = spec["components"][task["componentRef"]["name"]]
        executor = executors[component["executorLabel"]]
        json_format.ParseDict(executor, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec())
        assert set(upstreams(task)) <= set(tasks)


def test_every_step_is_a_container_that_reads_the_executor_input(
    compiled: list[dict[str, Any]],
) -> None:
    executors = compiled[0]["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        container = executor["container"]
        step = label.removeprefix("exec-").rstrip("-0123456789").replace("-", "_")
        assert container["image"] == "registry/steps:7"
        assert [*container["command"], *container["args"]] == [
            "tuft-step",
            step,
            "--executor-input",
            "{{$}}",
        ]


def test_every_step_gets_the_secret(compiled: list[dict[str, Any]]) -> None:
    executors = compiled[0]["deploymentSpec"]["executors"]
    configs = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(executors)
    for config in configs.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        [store, secret] = config["secretAsEnv"]
        assert (store["secretName"], store["optional"]) == ("tuft-object-store", True)
        assert (secret["secretName"], secret["optional"]) == ("our-secret", False)
        names = {entry["envVar"]: entry["secretKey"] for entry in secret["keyToEnv"]}
        assert names == {
            "TINKER_BASE_URL": "TINKER_BASE_URL",
            "TINKER_API_KEY": "TINKER_API_KEY",
        }


def of_step(compiled: list[dict[str, Any]], step: str) -> tuple[Any, Any, Any]:
    """Its first task, its container, and its Kubernetes settings."""
    spec, platform = compiled
    task = spec["root"]["dag"]["tasks"][step]
    label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return task, spec["deploymentSpec"]["executors"][label]["container"], configs[label]


def test_a_step_gets_what_the_profile_says(compiled: list[dict[str, Any]]) -> None:
    task, container, config = of_step(compiled, "rollout")
    assert task.get("cachingOptions", {}) == {}
    assert task["retryPolicy"]["maxRetryCount"] == 9
    assert container["env"] == [{"name": "AWS_ENDPOINT_URL", "value": "http://minio:9000"}]
    resources = container["resources"]
    assert resources["resourceCpuRequest"] == "500m"
    assert resources["resourceCpuLimit"] == "3"
    assert resources["resourceMemoryLimit"] == resources["resourceMemoryRequest"] == "4Gi"
    assert config["imagePullPolicy"] == "Always"
    assert config["imagePullSecret"][0]["secretName"] == "registry-key"
    assert config["nodeSelector"]["labels"] == {"pool": "big"}
    assert config["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert config["activeDeadlineSeconds"] == "60"
    assert config["podMetadata"] == {"labels": {"team": "rl"}, "annotations": {"note": "x"}}


def test_a_step_without_settings_of_its_own_has_the_default_ones(
    compiled: list[dict[str, Any]],
) -> None:
    task, container, config = of_step(compiled, "update")
    assert task.get("cachingOptions", {}) == {}
    assert task["retryPolicy"]["maxRetryCount"] == 3
    assert container["resources"]["resourceMemoryLimit"] == "2Gi"
    assert config["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert "nodeSelector" not in config
    assert of_step(compiled, "feedback")[0]["cachingOptions"] == {"enableCache": True}


def test_equal_components_are_written_once(compiled: list[dict[str, Any]]) -> None:
    spec, platform = compiled
    assert sorted(spec["components"]) == [
        "comp-evaluate",
        "comp-feedback",
        "comp-rollout",
        "comp-start-run",
        "comp-update",
    ]
    labels = {component["executorLabel"] for component in spec["components"].values()}
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert labels == set(spec["deploymentSpec"]["executors"]) == set(configs)


def test_each_iteration_trains_on_its_own_rollout_of_the_newest_policy(
    compiled: list[dict[str, Any]],
) -> None:
    tasks = compiled[0]["root"]["dag"]["tasks"]
    by_name = {task["taskInfo"]["name"]: task["inputs"] for task in tasks.values()}

    def source(task: str, parameter: str) -> str:
        output = by_name[task]["parameters"][parameter]["taskOutputParameter"]
        return str(tasks[output["producerTask"]]["taskInfo"]["name"])

    def constant(task: str, parameter: str) -> object:
        return by_name[task]["parameters"][parameter]["runtimeValue"]["constant"]

    assert source("evaluate before", "policy") == "start run"
    assert source("rollout 1", "policy") == "start run"
    assert source("rollout 3", "policy") == "update 2"
    assert source("evaluate after", "policy") == "update 3"
    for number in (1, 2, 3):
        assert source(f"update {number}", "run_id") == "start run"
        assert constant(f"rollout {number}", "iteration") == number - 1
        assert constant(f"update {number}", "iteration") == number - 1
        batch = by_name[f"update {number}"]["artifacts"]["batch"]["taskOutputArtifact"]
        assert tasks[batch["producerTask"]]["taskInfo"]["name"] == f"feedback {number}"
    assert [constant(f"update {number}", "checkpoint_name") for number in (1, 2, 3)] == [
        "",
        "",
        "final",
    ]
    # A retried start_run must find the run that its first execution made.
    assert constant("start run", "step_key") == "{{$.pipeline_job_uuid}}"


def test_the_same_pipeline_compiles_to_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in paths:
        compile_pipeline(build_demo(container_faces(Profile()), 2), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def interfaces(pipeline: Any) -> dict[str, Any]:
    """What flows between the tasks of a pipeline, whatever executes them."""
    text = json_format.MessageToJson(pipeline.pipeline_spec).replace("-lightweight", "")
    spec = json.loads(text)
    components = {
        name: (component.get("inputDefinitions"), component.get("outputDefinitions"))
        for name, component in spec["components"].items()
    }
    tasks = spec["root"]["dag"]["tasks"]
    return {"components": components, "inputs": {name: tasks[name]["inputs"] for name in tasks}}


def test_local_and_container_faces_make_the_same_pipeline() -> None:
    containers = build_demo(container_faces(Profile()), 2)
    assert interfaces(build_demo(local_faces(), 2)) == interfaces(containers)


@pytest.mark.parametrize("iterations", [0, -1, 51])
def test_iterations_have_a_range(iterations: int) -> None:
    with pytest.raises(WrongArgument, match="must be 1 to 50"):
        build_demo(local_faces(), iterations)


@pytest.mark.parametrize("name", ["demo.json", "no/such/folder/demo.yaml"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongArgument, match=str(tmp_path / name)):
        compile_pipeline(build_demo(local_faces(), 1), tmp_path / name)


def test_without_kfp_the_extra_is_named(tmp_path: Path) -> None:
    program = """
import importlib.abc, sys
class NoKfp(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "kfp":
            raise ModuleNotFoundError("No module named 'kfp'", name="kfp")
sys.meta_path.insert(0, NoKfp())
from tuft_pipelines.cli import main
sys.exit(main(["compile", "demo", "-o", sys.argv[1]]))
"""
    path = str(tmp_path / "demo.yaml")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert done.returncode == 78
    assert done.stderr == "tuft-pipelines: install it with its extra: tuft-pipelines[kfp]\n"


def test_compiling_works_without_torch(tmp_path: Path) -> None:
    program = """
import sys
for name in ("torch", "transformers", "tuft"):
    sys.modules[name] = None  # importing it raises ImportError
from tuft_pipelines.cli import main
sys.exit(main(["compile", "demo", "-o", sys.argv[1], "--iterations", "1"]))
"""
    path = tmp_path / "demo.yaml"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert path.is_file()
