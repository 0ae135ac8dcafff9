"""The manifests for Argo: they are what the code makes, and what Argo and Kubernetes take."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.argo.manifest_checks import calls, findings
from tuft_components.argo.files import HEADER, text_of, write_manifests
from tuft_components.argo.step_templates import (
    LIBRARY,
    input_parameters,
    library,
    step_template,
    template_name,
)
from tuft_components.argo_plugin import manifest
from tuft_components.argo_plugin.calls import SERVICE_STEPS
from tuft_components.profile import Profile
from tuft_components.steps import (
    STEP_NAMES,
    Contract,
    Dataset,
    Html,
    Metrics,
    NoInputs,
    Step,
    load_step,
)
from tuft_pipelines.argo import manifests
from tuft_pipelines.argo.__main__ import COMMITTED
from tuft_pipelines.argo.examples import examples
from tuft_pipelines.argo.parts import Knob, Knobs, passed_on

FILES = {**manifests(Profile()), **examples()}
PIPELINES = [name for name in FILES if name != f"{LIBRARY}.yaml"]
_NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")


def test_the_committed_files_are_up_to_date() -> None:
    files = [path for path in COMMITTED.rglob("*.yaml") if path.read_text().startswith(HEADER)]
    committed = {path.relative_to(COMMITTED).as_posix(): path.read_text() for path in files}
    assert committed == {name: text_of(m) for name, m in FILES.items()}, "run `make generate`"


def test_argo_takes_them() -> None:
    assert findings(list(FILES.values())) == []


def test_steps_that_mostly_wait_can_go_to_the_executor_plugin() -> None:
    made = manifests(Profile(), plugin=True)
    library_of_plugin = manifest.library(Profile())
    assert findings([library_of_plugin, *made.values()]) == []
    called = {
        (call["templateRef"]["name"], call["templateRef"]["template"])
        for file in made.values()
        for template in file["spec"]["templates"]
        for call in calls(template)
        if "templateRef" in call
    }
    there = {template for library_name, template in called if library_name == manifest.LIBRARY}
    assert there == {template_name(step) for step in SERVICE_STEPS} - {"evaluate"}
    assert not {template for name, template in called if name == LIBRARY} & there


def test_the_workflow_in_the_docs_is_one() -> None:
    docs = (COMMITTED.parents[1] / "docs" / "argo.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL)
    # As a template, whose schema is the same and is read already: reading one takes a second.
    workflow = {**yaml.safe_load(text), "kind": "WorkflowTemplate"}
    assert findings([workflow, *FILES.values()]) == []
    for name in FILES:
        assert Path(name).stem in docs


def test_files_are_written_once_more_without_those_that_are_gone(tmp_path: Path) -> None:
    write_manifests(tmp_path, {"old.yaml": {"a": "1"}, "new.yaml": {"a": "1"}})
    (tmp_path / "mine.yaml").write_text("a: 1")
    write_manifests(tmp_path, {"new.yaml": {"a": "1e30"}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "new.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_small_and_its_texts_are_texts_to_kubernetes(name: str) -> None:
    text = text_of(FILES[name])
    assert len(text) < 100_000
    assert yaml.safe_load(text) == FILES[name]
    root = yaml.compose(text)
    assert root is not None
    for node in _scalars(root):
        if node.tag.endswith(":str") and node.style is None:
            assert not _NUMBER.fullmatch(node.value), f"{node.value} is a number in YAML 1.2"


def _scalars(node: yaml.Node) -> list[yaml.ScalarNode]:
    if isinstance(node, yaml.MappingNode):
        return [scalar for pair in node.value for part in pair for scalar in _scalars(part)]
    if isinstance(node, yaml.SequenceNode):
        return [scalar for part in node.value for scalar in _scalars(part)]
    assert isinstance(node, yaml.ScalarNode)
    return [node]


def _pod(template: dict[str, Any]) -> dict[str, Any]:
    """What Argo makes of a template, as far as it is ours."""
    fields = ("nodeSelector", "tolerations", "securityContext", "volumes")
    spec = {name: template[name] for name in fields if name in template}
    metadata = {"name": template["name"], **template["metadata"]}
    container = {"name": "main", **template["container"]}
    spec["containers"] = [container]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


PROFILE = Profile.model_validate(
    {
        "image": "mirror/steps:2",
        "image_pull_secrets": ["pull"],
        "service_account": "runner",
        "env": {"AWS_ENDPOINT_URL": "http://minio:9000", "HTTP_PROXY": "http://proxy"},
        "secrets": {"AWS_REGION": None, "JUDGE_KEY": {"secret": "judge", "key": "k"}},
        "steps": {
            "default": {"memory": "1Gi", "retries": 5},
            "update": {
                "timeout_s": 600,
                "node_selector": {"pool": "a"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "annotations": {"a/b": "c"},
                "labels": {"team": "x"},
            },
        },
    }
)


@pytest.mark.parametrize("profile", [Profile(), PROFILE], ids=["default", "own"])
def test_pods_are_valid_and_restricted(profile: Profile) -> None:
    for template in library(profile)["spec"]["templates"]:
        pod = _pod(template)
        kubernetes_validate.validate(pod, "1.33", strict=True)
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        container = pod["spec"]["containers"][0]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
        secret = [e for e in container["env"] if re.search("KEY|SECRET|TOKEN", e["name"])]
        assert len(secret) >= 3
        assert all("value" not in entry for entry in secret)


def test_a_profile_is_followed() -> None:
    update = step_template(load_step("update"), PROFILE)
    assert update["container"]["image"] == "mirror/steps:2"
    assert update["container"]["resources"]["limits"]["memory"] == "1Gi"
    assert update["retryStrategy"]["limit"] == 5
    assert update["activeDeadlineSeconds"] == 600
    assert update["nodeSelector"] == {"pool": "a"}
    assert update["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert update["metadata"]["labels"]["team"] == "x"
    env = {entry["name"]: entry for entry in update["container"]["env"]}
    assert env["AWS_ENDPOINT_URL"] == {"name": "AWS_ENDPOINT_URL", "value": "http://minio:9000"}
    assert "AWS_REGION" not in env
    assert env["JUDGE_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "judge", "key": "k"}}
    assert "activeDeadlineSeconds" not in step_template(load_step("rollout"), PROFILE)
    for name, made in manifests(PROFILE).items():
        if name in PIPELINES:
            assert made["spec"]["serviceAccountName"] == "runner"
            assert made["spec"]["imagePullSecrets"] == [{"name": "pull"}]


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_template_gives_its_step_everything_and_fetches_what_it_wrote(name: str) -> None:
    step = load_step(name)
    template = step_template(step, Profile())
    declared = input_parameters(step)
    assert set(declared) >= {*step.params.model_fields, *step.inputs.model_fields}
    defaults = {n: entry["default"] for n, entry in declared.items() if "default" in entry}
    given = {n: defaults.get(n, "1") for n in step.params.model_fields}
    params = step.params.model_validate(given)
    for parameter, field in step.params.model_fields.items():
        if not field.is_required():
            assert getattr(params, parameter) == field.get_default(), parameter
    arguments = [text.partition("=")[2] for text in template["container"]["args"]]
    names = [text.partition("=")[0] for text in arguments]
    contracts = (step.params, step.inputs, step.outputs)
    assert names == [n for contract in contracts for n in contract.model_fields]
    outputs = template.get("outputs", {})
    fetched = {p["name"]: p["valueFrom"]["path"] for p in outputs.get("parameters", [])}
    fetched |= {a["name"]: a["path"] for a in outputs.get("artifacts", [])}
    for output, path in fetched.items():
        assert f"--output={output}={path}" in template["container"]["args"]
    elsewhere = set(step.outputs.model_fields) - set(fetched)
    assert {f"{output}_uri" for output in elsewhere} <= set(declared)
    for artifact in outputs.get("artifacts", []):
        assert artifact["archive"] == {"none": {}}
        assert list(artifact["s3"]) == ["key"]


class _Params(Contract):
    batch_uri: str = ""


class _Outputs(Contract):
    batch: Dataset
    page: Html
    metrics: Metrics


def test_a_step_with_two_things_of_one_name_is_refused() -> None:
    def run(*_arguments: object) -> _Outputs:
        raise AssertionError("the contract alone is looked at")

    step = Step("two", "Two.", _Params, NoInputs, _Outputs, run)
    with pytest.raises(TypeError, match="two parameters 'batch_uri'"):
        input_parameters(step)


def test_a_call_that_does_not_fit_its_step_is_refused() -> None:
    knobs = Knobs({"seed": Knob("7", "Mine.")})
    with pytest.raises(TypeError, match="no parameter bach"):
        knobs.step("update", "update", {"bach": "x"})
    knobs.step("rollout", "rollout", {"trajectories_uri": "x"})
    with pytest.raises(TypeError, match="split has two defaults, 'train' and 'eval'"):
        knobs.step("evaluate", "evaluate", {})
    arguments = knobs.arguments()["parameters"]
    assert arguments[0] == {
        "name": "policy",
        "description": "tinker:// path of a policy, or a base model. (evaluate, rollout)",
    }
    assert {"name": "seed", "description": "Mine.", "value": "7"} in arguments


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_keeps_the_rules(name: str) -> None:
    manifest = FILES[name]
    if manifest["kind"] == "CronWorkflow":
        assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
        return
    spec = manifest["spec"]
    assert "{{workflow.parameters." in spec["synchronization"]["mutexes"][0]["name"]
    assert spec["podGC"]["strategy"] == "OnPodSuccess"
    assert spec["ttlStrategy"]["secondsAfterFailure"] >= spec["ttlStrategy"]["secondsAfterSuccess"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["onExit"] == "exit"
    arguments = spec["arguments"]["parameters"]
    assert all(entry["description"] for entry in arguments)
    text = yaml.safe_dump(spec["templates"], width=10**6)
    for entry in arguments:
        assert f"workflow.parameters.{entry['name']}" in text, f"{entry['name']} does nothing"
    for template in spec["templates"]:
        for entry in template.get("outputs", {}).get("parameters", []):
            # Argo evaluates these without the workflow's arguments.
            assert "workflow." not in entry["valueFrom"].get("expression", "")


@pytest.mark.parametrize("name", PIPELINES)
def test_each_update_saves_under_a_name_of_its_own(name: str) -> None:
    """A name that is taken ends the step: a workflow that goes on with a run must not meet its own."""
    for value in re.findall(r"- name: checkpoint_name\n +value: (.+)", text_of(FILES[name])):
        # `segment` is train_loop's, which adds the iteration.
        assert "iteration" in value or value == "segment" or "checkpoint_every" in value


def test_the_checks_find_what_is_wrong() -> None:
    """Without them the tests above say nothing."""
    broken = copy.deepcopy(list(FILES.values()))
    grpo = next(m for m in broken if m["metadata"]["name"] == "tuft-grpo-split")
    main = next(t for t in grpo["spec"]["templates"] if t["name"] == "main")
    start = next(call for call in calls(main) if call["name"] == "start")
    start["arguments"]["parameters"].append({"name": "nmae", "value": "x"})
    main["outputs"]["parameters"][0]["valueFrom"]["parameter"] = (
        "{{steps.loop.outputs.parameters.policies}}"
    )
    grpo["spec"]["podGC"] = {"strategie": "OnPodSuccess"}
    grpo["spec"]["arguments"]["parameters"].pop()
    text = "\n".join(findings(broken))
    for said in (
        "unknown arguments ['nmae']",
        "loop gives no policies",
        "strategie",
        "not defined",
    ):
        assert said in text


def test_what_is_passed_on_names_both_calls() -> None:
    assert passed_on("a", of="next", otherwise="one") == (
        "(steps.next?.outputs?.parameters?.a ?? '') != '' ? "
        "steps.next.outputs.parameters.a : steps.one.outputs.parameters.a"
    )
