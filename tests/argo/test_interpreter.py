"""The interpreter does what Argo does, shown on small workflows: else runs by it prove nothing."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.argo.expressions import ExpressionError, evaluate
from tests.argo.interpreter import Argo, WorkflowResult
from tests.argo.pods import Fault, Pods
from tests.argo.scopes import Unresolved, resolved
from tuft_components.argo.pods import RETRY_EXPRESSION, retry_strategy
from tuft_components.profile import StepSettings

SCOPE = {
    "inputs.parameters.n": "3",
    "steps.a.outputs.parameters.r": "0.5",
    "steps.b.status": "Skipped",
    "lastRetry.exitCode": "75",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{inputs.parameters.n}}/{{=asInt(inputs.parameters.n) + 1}}", "3/4"),
        ("{{=asInt(inputs.parameters.n) < 10 && not (asFloat(steps.a.outputs.parameters.r) > 1)}}",
         "true"),
        ("{{=toJson(0..(asInt(inputs.parameters.n) - 1))}}", "[0,1,2]"),
        ("{{=(steps.b?.outputs?.parameters?.r ?? '') != '' ? 'b' : 'a'}}", "a"),
        ("{{=(steps.a?.outputs?.parameters?.r ?? '') != '' ? steps['a'].outputs.parameters.r : 1}}",
         "0.5"),
        ("{{=asInt(lastRetry.exitCode) in [75,137,143]}}", "true"),
        ("{{=1 + 2 * 3 % 4 == 3 ? 'n-' + string(2) : ''}}", "n-2"),
        ("{{=asFloat('1e+30') > 7 / 2}}", "true"),
    ],
)  # fmt: skip
def test_tags_are_replaced(text: str, value: str) -> None:
    assert resolved({"a": [text]}, SCOPE) == {"a": [value]}


@pytest.mark.parametrize(
    "text",
    [
        "{{inputs.parameters.m}}",
        "{{=steps.b.outputs.parameters.r}}",
        "{{=steps.a.outputs.parameters.other}}",
        "{{=inputs.parameters.n < 4}}",
        "{{=asInt(steps.a.outputs.parameters.r)}}",
        "{{=nobody()}}",
        "{{=1 +}}",
        "{{=item}}",
    ],
)
def test_what_argo_could_not_replace_is_an_error(text: str) -> None:
    with pytest.raises(Unresolved):
        resolved(text, SCOPE)


def test_expressions_are_as_strict_as_argos() -> None:
    for text in ("1 ? 2 : 3", "true + 1", "'a' && true", "5 % 0", "1 2", "nil.a", "(1", "a ~ b"):
        with pytest.raises(ExpressionError):
            evaluate(text, {"a": {}})


def _shell(name: str, script: str, *inputs: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": {"parameters": [{"name": i} for i in inputs]},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "container": {
            "command": ["sh", "-c", f"O=$HOME/outputs; mkdir -p $O; {script}"],
            "env": [{"name": "HOME", "value": "/tmp"}],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        },
        **more,
    }


def _gives(*names: str) -> dict[str, Any]:
    values = [{"name": n, "valueFrom": {"path": f"/tmp/outputs/{n}"}} for n in names]
    return {"parameters": values}


def _run(
    folder: Path,
    *templates: dict[str, Any],
    faults: tuple[Fault, ...] = (),
    parameters: dict[str, str] | None = None,
    **spec: Any,
) -> WorkflowResult:
    declared = [{"name": name, "value": value} for name, value in (parameters or {}).items()]
    manifest = {
        "kind": "WorkflowTemplate",
        "metadata": {"name": "w"},
        "spec": {
            "entrypoint": "main",
            "arguments": {"parameters": declared},
            "templates": list(templates),
            **spec,
        },
    }
    return Argo([manifest]).submit("w", {}, Pods(folder, faults=faults))


def _call(name: str, template: str, when: str = "", **arguments: str) -> dict[str, Any]:
    parameters = [{"name": n, "value": v} for n, v in arguments.items()]
    call: dict[str, Any] = {"name": name, "template": template}
    call["arguments"] = {"parameters": parameters}
    return {**call, "when": when} if when else call


@pytest.mark.parametrize(
    ("codes", "tries", "phase"),
    [
        ([0], 1, "Succeeded"),
        ([75, 137, 0], 3, "Succeeded"),
        ([143, 0], 2, "Succeeded"),
        ([65], 1, "Failed"),
        ([75, 78], 2, "Failed"),
        ([3], 1, "Failed"),
        ([1], 1, "Failed"),
        ([75, 75, 75, 75], 3, "Failed"),
    ],
)
def test_our_retry_strategy_retries_what_may_get_better(
    codes: list[int], tries: int, phase: str, tmp_path: Path
) -> None:
    log = tmp_path / "tries"
    script = f"echo x >>{log}; set -- {' '.join(map(str, codes))}; "
    script += f"shift $(($(wc -l <{log}) - 1)); exit $1"
    done = _run(
        tmp_path, _shell("main", script, retryStrategy=retry_strategy(StepSettings(retries=2)))
    )
    assert (done.phase, len(done.pods)) == (phase, tries), done.messages()


@pytest.mark.parametrize(("status", "code"), [("Error", "0"), ("Failed", "-1")])
def test_a_pod_without_an_exit_code_is_retried(status: str, code: str) -> None:
    assert evaluate(RETRY_EXPRESSION, {"lastRetry": {"status": status, "exitCode": code}}) is True


def test_a_lost_pod_is_retried(tmp_path: Path) -> None:
    strategy = retry_strategy(StepSettings(retries=1))
    fault = Fault("main", lose=True)
    done = _run(tmp_path, _shell("main", "true", retryStrategy=strategy), faults=(fault,))
    assert [pod.phase for pod in done.pods] == ["Error", "Succeeded"]
    assert done.phase == "Succeeded"


def _counting(limit: int) -> tuple[dict[str, Any], ...]:
    """A template that calls itself: one pod says n + 1."""
    loop = {
        "name": "main",
        "inputs": {"parameters": [{"name": "n", "default": "0"}]},
        "outputs": {
            "parameters": [
                {
                    "name": "n",
                    "valueFrom": {
                        "expression": "steps.next?.outputs?.parameters?.n ?? "
                        "steps.one.outputs.parameters.n"
                    },
                }
            ]
        },
        "steps": [
            [_call("one", "one", n="{{inputs.parameters.n}}")],
            [
                _call(
                    "next",
                    "main",
                    f"{{{{=asInt(steps.one.outputs.parameters.n) < {limit}}}}}",
                    n="{{steps.one.outputs.parameters.n}}",
                )
            ],
        ],
    }
    script = "echo $(({{inputs.parameters.n}} + 1)) >$O/n"
    return loop, _shell("one", script, "n", outputs=_gives("n"))


def test_a_recursion_ends_by_its_condition_and_returns(tmp_path: Path) -> None:
    done = _run(tmp_path, *_counting(3))
    assert (done.phase, done.main.outputs) == ("Succeeded", {"n": "3"})
    assert len(done.pods) == 3


def test_a_recursion_is_a_hundred_deep_at_most(tmp_path: Path) -> None:
    inputs = {"parameters": [{"name": "n", "default": "1"}]}
    again = _call("next", "main", n="{{=asInt(inputs.parameters.n) + 1}}")
    pod = _call("pod", "pod", "{{=asInt(inputs.parameters.n) >= 99}}", n="{{inputs.parameters.n}}")
    main = {"name": "main", "inputs": inputs, "steps": [[pod], [again]]}
    done = _run(tmp_path, main, _shell("pod", "true", "n"))
    assert done.phase == "Error"
    assert "Maximum recursion depth exceeded" in done.messages()
    assert len(done.pods) == 1  # the ninety-ninth level has one, the next would be too deep


def test_a_failure_that_is_tolerated_fails_nothing(tmp_path: Path) -> None:
    tolerant = _call("bad", "bad") | {"continueOn": {"failed": True}}
    main = {"name": "main", "steps": [[tolerant], [_call("good", "good")]]}
    done = _run(tmp_path, main, _shell("bad", "exit 65"), _shell("good", "true"))
    assert done.phase == "Succeeded"
    assert [pod.exit_code for pod in done.pods] == [65, 0]


def test_an_output_expression_does_not_see_the_workflow(tmp_path: Path) -> None:
    value = {"expression": "workflow.parameters.n"}
    main: dict[str, Any] = {
        "name": "main",
        "outputs": {"parameters": [{"name": "n", "valueFrom": value}]},
        "steps": [[_call("good", "good")]],
    }
    done = _run(tmp_path, main, _shell("good", "true"), parameters={"n": "1"})
    assert done.phase == "Error"
    assert "unknown name workflow" in done.messages()


def test_a_loop_gives_a_list_and_a_dag_keeps_the_order(tmp_path: Path) -> None:
    fan = _call("fan", "one", n="s3://{{item}}") | {"withParam": "{{=toJson(0..2)}}"}
    last = _call("last", "all", n="{{tasks.fan.outputs.parameters.n}}") | {"depends": "fan && off"}
    off = _call("off", "one", "{{=1 == 2}}", n="x")
    main = {
        "name": "main",
        "outputs": {
            "parameters": [
                {"name": "n", "valueFrom": {"parameter": "{{tasks.last.outputs.parameters.n}}"}}
            ]
        },
        "dag": {"tasks": [last, fan, off]},
    }
    one = _shell("one", "echo '{{inputs.parameters.n}}' >$O/n", "n", outputs=_gives("n"))
    done = _run(tmp_path, main, one, {**one, "name": "all"})
    assert json.loads(done.main.outputs["n"]) == ["s3://0", "s3://1", "s3://2"]
    assert [pod.template for pod in done.pods] == ["one"] * 3 + ["all"]


def test_one_failure_ends_the_workflow_and_the_exit_handler_runs(tmp_path: Path) -> None:
    main = {
        "name": "main",
        "steps": [[_call("bad", "bad"), _call("good", "good")], [_call("never", "good")]],
    }
    bad = _shell("bad", "printf 'no such bucket' >$TERMINATION_LOG; exit 78")
    exit_template = _shell("bye", "echo {{workflow.status}} >$O/s", outputs=_gives("s"))
    done = _run(tmp_path, main, bad, _shell("good", "true"), exit_template, onExit="bye")
    assert done.phase == "Failed"
    assert "bad: Error (exit code 78): no such bucket" in done.messages()
    assert sorted(pod.template for pod in done.pods) == ["bad", "bye", "good"]
    assert done.exit is not None
    assert done.exit.outputs == {"s": "Failed"}


def test_a_missing_secret_output_or_argument_is_an_error(tmp_path: Path) -> None:
    no_secret = _shell("main", "true")
    no_secret["container"]["env"].append(
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    )
    for number, (template, says) in enumerate(
        [
            (no_secret, "couldn't find key k in Secret s"),
            (_shell("main", "true", outputs=_gives("n")), "no output parameter"),
            (_shell("main", "true", "n"), "was not supplied"),
        ]
    ):
        done = _run(tmp_path / str(number), template)
        assert (done.phase, says in done.messages()) == ("Error", True)


def test_a_pod_over_its_deadline_is_ended(tmp_path: Path) -> None:
    done = _run(tmp_path, _shell("main", "exec sleep 30", activeDeadlineSeconds=0.2))
    assert done.phase == "Failed"
    assert done.pods[0].exit_code == 143


def test_workflows_of_one_mutex_wait_for_each_other(tmp_path: Path) -> None:
    template = _shell("main", "sleep 0.2")
    manifest = {
        "kind": "WorkflowTemplate",
        "metadata": {"name": "w"},
        "spec": {
            "entrypoint": "main",
            "arguments": {"parameters": [{"name": "name"}]},
            "synchronization": {"mutexes": [{"name": "run-{{workflow.parameters.name}}"}]},
            "templates": [template],
        },
    }
    argo = Argo([manifest])

    def seconds(names: list[str], folder: Path) -> float:
        threads = [
            threading.Thread(target=argo.submit, args=("w", {"name": n}, Pods(folder / str(i))))
            for i, n in enumerate(names)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - begun

    assert seconds(["a", "a", "a"], tmp_path / "same") >= 0.6


def test_what_is_beyond_the_subset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="memoize"):
        _run(tmp_path, _shell("main", "true", memoize={}))
    with pytest.raises(ValueError, match="withItems"):
        call = _call("a", "one") | {"withItems": ["1"]}
        _run(tmp_path, {"name": "main", "steps": [[call]]}, _shell("one", "true"))
    manifest = {
        "kind": "WorkflowTemplate",
        "metadata": {"name": "w"},
        "spec": {
            "entrypoint": "main",
            "arguments": {"parameters": [{"name": "name"}]},
            "templates": [_shell("main", "true")],
        },
    }
    for given, says in (({}, "name is not given"), ({"name": "a", "b": "c"}, "no parameter")):
        with pytest.raises(ValueError, match=says):
            Argo([manifest]).submit("w", given, Pods(tmp_path))
