"""What the ready pipelines are made of. Nothing here needs a cluster or a service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from tests.tools.kfp_check import findings
from tuft_components.profile import Profile
from tuft_pipelines.catalogue import NAMES, ready_pipeline
from tuft_pipelines.cli import main
from tuft_pipelines.compiling import compile_pipeline
from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.faces import container_faces, local_faces
from tuft_pipelines.generate import COMMITTED, write_all

LARGEST = 200_000


def spec_of(name: str, **choices: Any) -> dict[str, Any]:
    pipeline = ready_pipeline(name)
    built = pipeline.build(local_faces(), pipeline.choose(choices))
    spec: dict[str, Any] = json_format.MessageToDict(built.pipeline_spec)
    return spec


def tasks_of(name: str, **choices: Any) -> dict[str, dict[str, Any]]:
    """Display name → task."""
    tasks = spec_of(name, **choices)["root"]["dag"]["tasks"]
    return {task["taskInfo"]["name"]: task for task in tasks.values()}


def source(tasks: dict[str, Any], task: str, parameter: str) -> str:
    """`TASK.OUTPUT` that a parameter of a task comes from."""
    output = tasks[task]["inputs"]["parameters"][parameter]["taskOutputParameter"]
    return f"{shown(tasks, output['producerTask'])}.{output['outputParameterKey']}"


def shown(tasks: dict[str, Any], name: str) -> str:
    """KFP's name of a task → the display name."""
    components = {
        task["componentRef"]["name"].removeprefix("comp-"): shown for shown, task in tasks.items()
    }
    return components[name]


def constant(tasks: dict[str, Any], task: str, parameter: str) -> Any:
    return tasks[task]["inputs"]["parameters"][parameter]["runtimeValue"]["constant"]


@pytest.mark.parametrize("name", NAMES)
def test_preflight_is_first_the_report_is_last_and_all_is_documented(name: str) -> None:
    spec = spec_of(name)
    tasks = spec["root"]["dag"]["tasks"]
    first = [name for name, task in tasks.items() if not task.get("dependentTasks")]
    assert first == ["preflight-lightweight"]
    report = tasks["report-lightweight"]
    assert set(report["dependentTasks"]) == set(tasks) - {"report-lightweight"}
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {"name", "work_root"} <= set(parameters)
    for parameter, definition in parameters.items():
        assert definition.get("description"), parameter
    for task in tasks.values():
        work = task["inputs"]["parameters"]["work_uri"]["runtimeValue"]["constant"]
        assert work == (
            "{{$.inputs.parameters['pipelinechannel--work_root']}}"
            "/{{$.inputs.parameters['pipelinechannel--name']}}"
        )


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_minimal")])
def test_the_minimal_form_is_the_same_with_fewer_parameters(name: str) -> None:
    full, minimal = ready_pipeline(name), ready_pipeline(f"{name}_minimal")
    assert set(minimal.parameters.shown) < set(full.parameters.shown)
    assert len(minimal.parameters.shown) <= 11
    assert list(tasks_of(name)) == list(tasks_of(minimal.name))


@pytest.mark.parametrize("name", ["grpo_minimal", "grpo_split"])
def test_manifests_are_up_to_date(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.yaml"
    compile_pipeline(ready_pipeline(name).build(container_faces(Profile())), file)
    assert file.read_text() == (COMMITTED / file.name).read_text(), "run `make generate`"


@pytest.mark.slow
def test_all_manifests_are_up_to_date_and_sound(tmp_path: Path) -> None:
    write_all(tmp_path, Profile())
    written = {file.relative_to(tmp_path) for file in tmp_path.rglob("*.yaml")}
    assert written == {file.relative_to(COMMITTED) for file in COMMITTED.rglob("*.yaml")}
    for file in sorted(written):
        assert (tmp_path / file).read_text() == (COMMITTED / file).read_text(), (
            "run `make generate`"
        )
        if file.parent == Path():
            assert list(findings(COMMITTED / file)) == []
    for name in NAMES:
        spec, platform = yaml.safe_load_all((COMMITTED / f"{name}.yaml").read_text())
        pipeline, version = yaml.safe_load_all((COMMITTED / "native" / f"{name}.yaml").read_text())
        assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
        assert version["spec"]["pipelineSpec"] == spec
        assert version["spec"]["platformSpec"] == platform


def test_twenty_iterations_of_split_steps_stay_small(tmp_path: Path) -> None:
    pipeline = ready_pipeline("grpo_split")
    file = tmp_path / "grpo_split.yaml"
    built = pipeline.build(container_faces(Profile()), pipeline.choose({"iterations": 20}))
    compile_pipeline(built, file)
    assert file.stat().st_size < LARGEST
    assert list(findings(file)) == []


def test_segments_hand_over_what_the_next_one_needs() -> None:
    tasks = tasks_of("grpo", segments=3)
    assert list(tasks)[-1] == "train 3" or "train 4" not in tasks
    assert source(tasks, "train 1", "policy_before") == "start run.policy"
    assert "reward_before" not in tasks["train 1"]["inputs"]["parameters"]
    for number in (2, 3):
        before = f"train {number - 1}"
        assert source(tasks, f"train {number}", "run_id") == "start run.run_id"
        assert source(tasks, f"train {number}", "policy_before") == f"{before}.policy"
        assert source(tasks, f"train {number}", "first_iteration") == f"{before}.iterations_done"
        assert source(tasks, f"train {number}", "reward_before") == f"{before}.last_reward"
        assert source(tasks, f"train {number}", "checkpoint_before") == f"{before}.checkpoint"
        after = f"evaluate after {number}"
        assert source(tasks, after, "policy") == f"train {number}.policy"
        assert source(tasks, after, "iteration") == f"train {number}.iterations_done"


def test_rl_after_sft_begins_with_what_sft_made() -> None:
    tasks = tasks_of("sft_then_rl", segments=1)
    assert source(tasks, "fine-tune", "run_id") == "start run.run_id"
    assert source(tasks, "evaluate before", "policy") == "fine-tune.policy"
    assert source(tasks, "train 1", "policy_before") == "fine-tune.policy"
    parameters = tasks["fine-tune"]["inputs"]["parameters"]
    assert parameters["learning_rate"]["componentInputParameter"] == "sft_learning_rate"


def test_each_update_trains_on_the_newest_policy() -> None:
    tasks = tasks_of("grpo_split", iterations=3, evaluate_every=2)
    assert source(tasks, "rollout 1", "policy") == "start run.policy"
    assert source(tasks, "rollout 3", "policy") == "update 2.policy"
    assert [constant(tasks, f"rollout {n}", "iteration") for n in (1, 2, 3)] == [0, 1, 2]
    assert [constant(tasks, f"rollout {n}", "policy_version") for n in (1, 2, 3)] == [0, 1, 2]
    assert [constant(tasks, f"update {n}", "iteration") for n in (1, 2, 3)] == [0, 1, 2]
    assert source(tasks, "evaluate after 2", "policy") == "update 2.policy"
    assert source(tasks, "evaluate after", "policy") == "update 3.policy"
    assert constant(tasks, "evaluate after", "iteration") == 3
    assert constant(tasks, "update 3", "checkpoint_name") == "checkpoint-000003"


def test_stale_rollouts_need_not_wait_for_the_last_update() -> None:
    tasks = tasks_of("grpo_split", iterations=4, max_staleness=1)
    policies = [source(tasks, f"rollout {number}", "policy") for number in (1, 2, 3, 4)]
    assert policies == [
        "start run.policy",
        "start run.policy",
        "update 1.policy",
        "update 2.policy",
    ]
    versions = [constant(tasks, f"rollout {number}", "policy_version") for number in (1, 2, 3, 4)]
    assert versions == [0, 0, 1, 2]
    assert [constant(tasks, f"rollout {number}", "iteration") for number in (1, 2, 3, 4)] == [
        *(0, 1, 2, 3)
    ]


def test_shards_are_side_by_side_and_feedback_takes_all() -> None:
    tasks = tasks_of("grpo_split", iterations=2, shards=3)
    for shard in range(3):
        name = f"rollout 2, {shard + 1} of 3"
        assert (constant(tasks, name, "shard"), constant(tasks, name, "shards")) == (shard, 3)
        upstream = {shown(tasks, other) for other in tasks[name]["dependentTasks"]}
        assert upstream == {"update 1"}
    judged = tasks["feedback 2"]
    assert "artifacts" not in judged["inputs"]
    uris = constant(tasks, "feedback 2", "trajectories_uris")
    assert len(uris) == 3
    upstream = {shown(tasks, other) for other in judged["dependentTasks"]}
    assert upstream == {f"rollout 2, {number} of 3" for number in (1, 2, 3)}


def test_what_a_minimal_form_hides_has_the_default_of_the_full_one() -> None:
    minimal = tasks_of("grpo_split_judge_minimal", iterations=1)
    parameters = minimal["feedback 1"]["inputs"]["parameters"]
    assert parameters["reward"]["componentInputParameter"] == "reward"
    # The step's own default does: nothing need be passed.
    assert "advantage" not in parameters
    pipeline = ready_pipeline("grpo_judge").minimal("name", "reward_args")
    assert pipeline.parameters.default("reward") == "judge"


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("grpo_split", {"iterations": 21}, "split steps go up to 20.*train_loop.*no such limit"),
        ("grpo_split", {"iterations": 20, "shards": 7}, "180 tasks; a compiled pipeline holds 160"),
        ("grpo_split", {"shards": 0}, r"choice of grpo_split shards: .* \(not 0\)"),
        ("grpo", {"segments": 11}, "segments: .*make segments longer"),
        ("grpo", {"iterations": 3}, "no choice of grpo iterations; there are: segments"),
    ],
)
def test_choices_that_cannot_be_are_explained(
    name: str, choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongArgument, match=message):
        ready_pipeline(name).choose(choices)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "parameter name: Field required"),
        (["name"], "'name': write NAME=VALUE"),
        (["name=a", "speed=9"], "no parameter speed; there are: advantage, "),
        (["name=a/b"], "parameter name: String should match"),
        (["name=a", "groups=0"], r"parameter groups: .*greater than or equal to 1 \(not '0'\)"),
        (["name=a", "learning_rate=fast"], "parameter learning_rate: .*number.*'fast'"),
        (["name=a", "env_args={"], "parameter env_args: "),
        (["name=a", "loss_fn=l2"], "parameter loss_fn: .*importance_sampling"),
    ],
)
def test_parameters_are_checked_before_anything_runs(settings: list[str], message: str) -> None:
    with pytest.raises(WrongArgument, match=message):
        ready_pipeline("grpo").parameters.parse(settings)


def test_values_get_the_types_of_the_steps() -> None:
    parsed = ready_pipeline("grpo").parameters.parse(
        ["name=a", "groups=4", "learning_rate=1e-3", "train_mlp=false", 'env_args={"a": [1]}']
    )
    assert parsed == {
        "name": "a",
        "groups": 4,
        "learning_rate": 0.001,
        "train_mlp": False,
        "env_args": '{"a": [1]}',
    }
    listed = ready_pipeline("rescore_and_update").parameters.parse(
        ["name=a", "run_id=r", "iteration=3", 'trajectories_uris=["s3://b/1"]', "reward=env"]
    )
    assert listed["trajectories_uris"] == ["s3://b/1"]


def test_list_shows_every_pipeline_and_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["demo", *NAMES]
    assert main(["list", "grpo_split_minimal"]) == 0
    printed = capsys.readouterr().out
    assert "  name: str required  Of the training run, unique among yours" in printed
    assert "  shards: int [1]  Rollouts of an iteration, side by side" in printed


@pytest.mark.parametrize("name", ["grpo", "grpo_split"])
def test_compile_writes_for_argo_too(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "argo.yaml"
    assert main(["compile", name, "--engine", "argo", "-o", str(path)]) == 0
    kinds = [document["kind"] for document in yaml.safe_load_all(path.read_text())]
    assert set(kinds) == {"WorkflowTemplate"}
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(path.read_text())]
    assert names[-1] == f"tuft-{name.replace('_', '-')}"
    assert main(["compile", "nothing", "--engine", "argo", "-o", str(path)]) == 78
    assert "no pipeline 'nothing' for Argo; there are: " in capsys.readouterr().err


def test_compiling_a_ready_pipeline_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    program = """
import sys
for name in ("torch", "transformers", "tinker", "tuft"):
    sys.modules[name] = None  # importing it raises ImportError
from tuft_pipelines.cli import main
sys.exit(main(["compile", "sft_then_rl_minimal", "-o", sys.argv[1]]))
"""
    path = tmp_path / "pipeline.yaml"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
