"""How the loops of the WorkflowTemplates go, with pods whose results are given, not worked for.

tests/argo/test_workflows_run.py runs the same templates with the real steps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.argo.interpreter import Argo, WorkflowResult
from tests.argo.pods import PodResult, Pods
from tuft_components.profile import Profile
from tuft_pipelines.argo import manifests

ARGO = Argo(list(manifests(Profile()).values()))
NAMED = {"name": "run"}
Outputs = Callable[[PodResult], Mapping[str, str]]


class GivenPods(Pods):
    """Pods that succeed at once. `outputs` are by template."""

    def __init__(self, folder: Path, outputs: Mapping[str, Outputs]) -> None:
        super().__init__(folder)
        self._outputs = outputs

    def run(self, template: Mapping[str, Any], name: str) -> PodResult:
        arguments = tuple(template["container"]["args"])
        pod = PodResult(name, template["name"], "Succeeded", 0, "", arguments)
        values = _every_output(template)
        if pod.template in self._outputs:
            values.update(self._outputs[pod.template](pod))
        result = PodResult(name, template["name"], "Succeeded", 0, "", arguments, values)
        with self._lock:
            self.results.append(result)
        return result


def _every_output(template: Mapping[str, Any]) -> dict[str, str]:
    return {e["name"]: e["name"] for e in template.get("outputs", {}).get("parameters", [])}


def _split(folder: Path, rewards: Callable[[int], float], **parameters: str) -> WorkflowResult:
    outputs: dict[str, Outputs] = {
        "rollout": lambda pod: {"uri": f"{pod.argument('iteration')}/{pod.argument('shard')}"},
        "feedback": lambda pod: {"mean_reward": str(rewards(int(pod.argument("iteration"))))},
        "update": lambda pod: {"policy": f"policy-{int(pod.argument('iteration')) + 1}"},
    }
    return ARGO.submit("tuft-grpo-split", {**NAMED, **parameters}, GivenPods(folder, outputs))


@pytest.mark.parametrize(
    ("iterations", "a_level"), [(1, 10), (10, 10), (11, 10), (23, 5), (3, 1), (89, 1), (89, 89)]
)
def test_every_iteration_is_done_once_in_order(
    iterations: int, a_level: int, tmp_path: Path
) -> None:
    """Also where levels and iterations a level are together the 90 that the docs promise."""
    done = _split(tmp_path, float, iterations=str(iterations), iterations_a_level=str(a_level))
    assert done.phase == "Succeeded", done.messages()
    assert [pod.argument("iteration") for pod in done.of("update")] == [
        str(number) for number in range(iterations)
    ]
    # Each rollout has the policy of the update before it, and so has the last evaluation.
    assert [pod.argument("policy") for pod in done.of("rollout")[1:]] == [
        f"policy-{number}" for number in range(1, iterations)
    ]
    assert done.of("evaluate")[-1].argument("policy") == f"policy-{iterations}"
    assert done.main.outputs == {
        "policy": f"policy-{iterations}",
        "iteration": str(iterations),
        "reward": str(float(iterations - 1)),
    }


@pytest.mark.parametrize(("stop_at", "updates"), [("0", 1), ("6.5", 8), ("9", 10), ("1e30", 20)])
def test_it_stops_after_the_iteration_that_reaches_the_goal(
    stop_at: str, updates: int, tmp_path: Path
) -> None:
    done = _split(tmp_path, float, iterations="20", iterations_a_level="5", stop_at_reward=stop_at)
    assert len(done.of("update")) == updates
    assert done.main.outputs["iteration"] == str(updates)
    assert [pod.template for pod in done.pods[-2:]] == ["evaluate", "report"]


def test_shards_are_played_apart_and_judged_together(tmp_path: Path) -> None:
    done = _split(tmp_path, float, iterations="2", shards="3")
    played = Counter(
        (pod.argument("iteration"), pod.argument("shard"), pod.argument("shards"))
        for pod in done.of("rollout")
    )
    assert played == Counter((i, s, "3") for i in "01" for s in "012")
    judged = [json.loads(pod.argument("trajectories_uris")) for pod in done.of("feedback")]
    assert judged == [["0/0", "0/1", "0/2"], ["1/0", "1/1", "1/2"]]
    places = {pod.argument("trajectories") for pod in done.of("rollout")}
    assert len(places) == 6


def test_evaluations_and_checkpoints_come_every_so_many_iterations(tmp_path: Path) -> None:
    done = _split(tmp_path, float, iterations="5", evaluate_every="2", checkpoint_every="3")
    evaluated = [pod.argument("iteration") for pod in done.of("evaluate")]
    assert evaluated == ["0", "2", "4", "5"]
    saved = [pod.argument("checkpoint_name") for pod in done.of("update")]
    assert saved == ["", "", "checkpoint-3", "", ""]


def _segments(folder: Path, pipeline: str, reward: str, **parameters: str) -> WorkflowResult:
    def trained(pod: PodResult) -> dict[str, str]:
        done = int(pod.argument("first_iteration")) + int(pod.argument("iterations"))
        values = {"policy": f"policy-{done}", "checkpoint": f"segment-{done}"}
        return {**values, "iterations_done": str(done), "last_reward": reward}

    pods = GivenPods(folder, {"train-loop": trained, "sft": lambda _pod: {"policy": "tuned"}})
    return ARGO.submit(pipeline, {**NAMED, **parameters}, pods)


@pytest.mark.parametrize("reward", ["0.1", "0.9"])
def test_segments_end_with_the_iterations_or_the_goal(reward: str, tmp_path: Path) -> None:
    parameters = {"iterations": "25", "iterations_a_segment": "10", "stop_at_reward": "0.5"}
    done = _segments(tmp_path, "tuft-grpo", reward, **parameters)
    assert done.phase == "Succeeded", done.messages()
    loops = [
        tuple(pod.argument(name) for name in ("policy_before", "first_iteration", "iterations"))
        for pod in done.of("train-loop")
    ]
    every = [("policy", "0", "10"), ("policy-10", "10", "10"), ("policy-20", "20", "5")]
    assert loops == (every if reward == "0.1" else every[:1])
    last = "25" if reward == "0.1" else "10"
    assert done.main.outputs["policy"] == f"policy-{last}"
    assert done.main.outputs["checkpoint"] == f"segment-{last}"
    assert done.of("evaluate")[-1].argument("iteration") == last


def test_reinforcement_learning_begins_with_what_was_fine_tuned(tmp_path: Path) -> None:
    done = _segments(tmp_path, "tuft-sft-then-rl", "0", dataset_uri="s3://b/d", iterations="5")
    assert done.phase == "Succeeded", done.messages()
    assert done.of("train-loop")[0].argument("policy_before") == "tuned"
    assert done.of("evaluate")[0].argument("policy") == "tuned"
    assert done.of("sft")[0].argument("dataset_uri") == "s3://b/d"


@pytest.mark.parametrize(
    ("given", "evaluated", "gate", "baseline"),
    [
        ({}, ["new"], "threshold", "0"),
        ({"baseline_policy": "old"}, ["new", "old"], "both", "0.25"),
        ({"baseline_policy": "old", "gate": "baseline"}, ["new", "old"], "baseline", "0.25"),
        ({"gate": "none"}, ["new"], "none", "0"),
    ],
)
def test_a_policy_is_held_against_another_where_one_is_named(
    given: dict[str, str], evaluated: list[str], gate: str, baseline: str, tmp_path: Path
) -> None:
    rewards = {"new": "0.75", "old": "0.25"}
    pods = GivenPods(
        tmp_path, {"evaluate": lambda pod: {"mean_reward": rewards[pod.argument("policy")]}}
    )
    parameters = {**NAMED, "policy": "new", "target_uri": "s3://m", "model_name": "x", **given}
    done = ARGO.submit("tuft-evaluate-and-promote", parameters, pods)
    assert done.phase == "Succeeded", done.messages()
    assert sorted(pod.argument("policy") for pod in done.of("evaluate")) == evaluated
    (promote,) = done.of("promote")
    seen = [promote.argument(name) for name in ("policy", "metric", "gate", "baseline")]
    assert seen == ["new", "0.75", gate, baseline]
    assert done.main.outputs["mean_reward"] == "0.75"
