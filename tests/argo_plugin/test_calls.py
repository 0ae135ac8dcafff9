"""What a template asks for, and when two ask for the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.argo_plugin.plugin import from_library, plugin_template, request
from tuft_components.argo_plugin.calls import Call, read_call
from tuft_components.argo_plugin.wire import Asked, BadRequest, Reply, parse
from tuft_components.errors import BadConfiguration


def asked(template: dict[str, Any], uid: str = "u") -> Asked:
    found = parse(json.dumps(request(template, uid)).encode())
    assert found is not None
    return found


def call(template: dict[str, Any], uid: str = "u") -> Call:
    return read_call(asked(template, uid))


UPDATE = {
    "step": "update",
    "params": {"run_id": "r", "iteration": 3},
    "inputs": {"batch": "s3://b/k"},
}


def test_a_template_becomes_a_command_line() -> None:
    content = {
        **UPDATE,
        "params": {"run_id": "r=1", "loss_config": {"a": 1}, "iteration": 3, "x": True},
        "outputs": {"metrics": "s3://b/metrics.json"},
    }
    assert call(plugin_template(content)).arguments() == [
        "update",
        "--param=run_id=r=1",
        '--param=loss_config={"a": 1}',
        "--param=iteration=3",
        "--param=x=true",
        "--input=batch=s3://b/k",
        "--output=metrics=s3://b/metrics.json",
    ]


def test_what_a_template_leaves_empty_is_left_out() -> None:
    content = {**UPDATE, "inputs": {"batch": ""}, "outputs": {"metrics": ""}}
    arguments = call(plugin_template(content)).arguments()
    assert arguments == ["update", "--param=run_id=r", "--param=iteration=3"]


def test_the_same_request_has_the_same_key_and_no_other_has() -> None:
    template = from_library("update", run_id="r", batch="s3://b/k", iteration=3)
    others = [
        call(from_library("update", run_id="r", batch="s3://b/k", iteration=4)),
        call(from_library("update", run_id="r", batch="s3://b/other", iteration=3)),
        call(template, "another workflow"),
        call({**template, "inputs": {"parameters": [{"name": "extra", "value": "1"}]}}),
    ]
    assert call(template).key == call(dict(reversed(template.items()))).key
    assert len({call(template).key, *(other.key for other in others)}) == 5


def test_a_run_without_name_or_key_gets_one_that_a_restart_finds_again() -> None:
    first = call(plugin_template({"step": "start_run"}))
    assert first.params == {"step_key": f"argo-{first.key}"}
    named = from_library("start-run", name="mine")
    assert call(named).params["step_key"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**UPDATE, "step": "rollout"}, "runs no step 'rollout'.*start_run, update.*in pods"),
        ({"params": {}}, "plugin.tuft.step: Field required"),
        ({**UPDATE, "param": {}}, "plugin.tuft.param: unknown; there are: step, params"),
        ({**UPDATE, "params": {"run_id": None}}, "plugin.tuft.params.run_id is null"),
        ("update", "plugin.tuft: Input should be"),
        ({"step": "evaluate", "params": {"env": "mine:make"}}, "env=mine:make: code of your own"),
        (
            {"step": "evaluate", "params": {"reward": "mine:score"}},
            "code of your own runs in a pod",
        ),
    ],
)
def test_what_cannot_be_asked_for(content: Any, message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        call(plugin_template(content))


def test_templates_of_others_are_not_ours() -> None:
    theirs = {**plugin_template(None), "plugin": {"slack": {"text": "hello"}}}
    # Whatever else is in the request: it is theirs to judge.
    assert parse(json.dumps(request(theirs, uid="")).encode()) is None
    assert parse(json.dumps(request({"name": "http", "http": {}})).encode()) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "body: Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (b'{"workflow": {"metadata": {}}}', "template: Field required"),
        (json.dumps(request(plugin_template(UPDATE), uid="")).encode(), "metadata.uid is missing"),
    ],
)
def test_what_is_no_request(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse(body)


def test_outputs_become_parameters_as_pods_give_them() -> None:
    outputs = {"policy": "tinker://p", "checkpoint": "", "metrics": {"loss": 0.5}}
    assert call(plugin_template(UPDATE)).output_parameters(outputs) == {
        "policy": "tinker://p",
        "checkpoint": "",
        "metrics": '{"loss": 0.5}',
    }


def test_replies_are_as_argo_reads_them() -> None:
    assert Reply("Running", "wait", {}, requeue_s=5).body() == {
        "node": {"phase": "Running", "message": "wait"},
        "requeue": "5s",
    }
    assert Reply("Succeeded", "", {"a": "1"}, exit_code=0).body() == {
        "node": {
            "phase": "Succeeded",
            "message": "",
            "outputs": {"parameters": [{"name": "a", "value": "1"}], "exitCode": "0"},
        }
    }
    long = Reply("Failed", "x" * 100_000, {}, exit_code=65).body()
    assert len(long["node"]["message"]) < 6_000
