"""Runs WorkflowTemplates as Argo's controller does, with pods as local processes.

The subset that we generate: steps, dag (`depends` by names), `when`, `withParam`, recursion with
Argo's limit, templateRef, retryStrategy, continueOn, onExit, parallelism, mutexes, and outputs by
path, parameter and expression. Anything else in a template is refused, so that a new feature in the
manifests is never silently ignored here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

from tests.argo.expressions import ExpressionError, evaluate
from tests.argo.pods import PodResult, Pods
from tests.argo.scopes import Scope, Unresolved, expression_text, resolved

MAX_DEPTH = 100
NodePhase = Literal["Succeeded", "Failed", "Error", "Skipped"]
_TEMPLATE_FIELDS = frozenset(
    [
        "name",
        "annotations",
        "metadata",
        "inputs",
        "outputs",
        "steps",
        "dag",
        "container",
        "volumes",
        "retryStrategy",
        "parallelism",
        "failFast",
        "securityContext",
        "nodeSelector",
        "tolerations",
        "activeDeadlineSeconds",
    ]
)
_CALL_FIELDS = frozenset(
    ["name", "template", "templateRef", "arguments", "when", "withParam", "depends", "continueOn"]
)


@dataclass
class Node:
    """One execution of a template, or of a step group's member."""

    name: str
    phase: NodePhase
    message: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    children: Sequence[Node] = ()

    @property
    def failed(self) -> bool:
        return self.phase in ("Failed", "Error")


@dataclass
class WorkflowResult:
    """`pods` in the order in which they ended, each try of its own; `exit` is the exit handler."""

    name: str
    main: Node
    exit: Node | None
    pods: list[PodResult]

    @property
    def phase(self) -> NodePhase:
        return self.exit.phase if self.exit is not None and self.exit.failed else self.main.phase

    def of(self, template: str) -> list[PodResult]:
        return [pod for pod in self.pods if pod.template == template]

    def messages(self) -> str:
        """Of what failed: for assertions."""
        failures = [f"{pod.template}: {pod.message}" for pod in self.pods if pod.message]
        return "\n".join([self.main.message, *failures])


class Argo:
    """A namespace with WorkflowTemplates, in which workflows are submitted."""

    def __init__(self, manifests: Sequence[Mapping[str, Any]]) -> None:
        self._templates = {
            manifest["metadata"]["name"]: manifest["spec"]
            for manifest in manifests
            if manifest["kind"] == "WorkflowTemplate"
        }
        self._mutexes: dict[str, Lock] = {}
        self._lock = Lock()

    def submit(
        self,
        template: str,
        parameters: Mapping[str, str],
        pods: Pods,
        *,
        pause: Callable[[float], None] = lambda _seconds: None,
    ) -> WorkflowResult:
        """Run a workflow of that WorkflowTemplate to its end. `pause` waits between retries.

        Raises:
            ValueError: a parameter is unknown or lacks, or the manifest is beyond the subset.
        """
        spec = self._templates[template]
        name = f"{template}-{uuid.uuid4().hex[:5]}"
        scope = {
            "workflow.name": name,
            "workflow.uid": str(uuid.uuid4()),
            "workflow.namespace": "here",
            **_workflow_parameters(spec, parameters),
        }
        execution = _Execution(self._templates, pods, pause)
        mutexes = self._held(spec, scope)
        try:
            main = execution.template((template, spec["entrypoint"]), {}, scope, name, 0)
            exit_node = None
            if "onExit" in spec:
                scope = {**scope, "workflow.status": main.phase}
                exit_node = execution.template(
                    (template, spec["onExit"]), {}, scope, f"{name}.onExit", 0
                )
        finally:
            for mutex in mutexes:
                mutex.release()
        return WorkflowResult(name, main, exit_node, list(pods.results))

    def _held(self, spec: Mapping[str, Any], scope: Scope) -> list[Lock]:
        names = [m["name"] for m in spec.get("synchronization", {}).get("mutexes", [])]
        mutexes = []
        for name in resolved(names, scope):
            with self._lock:
                mutex = self._mutexes.setdefault(name, Lock())
            mutex.acquire()
            mutexes.append(mutex)
        return mutexes


def _workflow_parameters(spec: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    declared = spec.get("arguments", {}).get("parameters", [])
    if unknown := set(given) - {entry["name"] for entry in declared}:
        raise ValueError(f"no parameter {sorted(unknown)}")
    found = {}
    for entry in declared:
        value = given.get(entry["name"], entry.get("value"))
        if value is None:
            raise ValueError(f"parameter {entry['name']} is not given")
        found[f"workflow.parameters.{entry['name']}"] = value
    return found


Reference = tuple[str, str]
"""WorkflowTemplate and template."""


class _Execution:
    """Of one workflow."""

    def __init__(
        self,
        templates: Mapping[str, Mapping[str, Any]],
        pods: Pods,
        pause: Callable[[float], None],
    ) -> None:
        self._templates = templates
        self._pods = pods
        self._pause = pause

    def template(
        self, reference: Reference, given: Mapping[str, str], outer: Scope, name: str, depth: int
    ) -> Node:
        """Execute it. `outer` is the scope of the workflow: nothing of the caller's is seen."""
        if depth >= MAX_DEPTH:
            return Node(name, "Error", "Maximum recursion depth exceeded")
        owner, template_name = reference
        template = _named(self._templates[owner]["templates"], template_name)
        if unknown := set(template) - _TEMPLATE_FIELDS:
            raise ValueError(f"template {template_name}: {sorted(unknown)} is beyond this subset")
        scope = dict(outer)
        for entry in template.get("inputs", {}).get("parameters", []):
            value = given.get(entry["name"], entry.get("value", entry.get("default")))
            if value is None:
                return Node(name, "Error", f"inputs.parameters.{entry['name']} was not supplied")
            scope[f"inputs.parameters.{entry['name']}"] = resolved(value, outer)
        try:
            if "container" in template:
                return self._tries(template, scope, name)
            children = _Children(self, owner, template, scope, outer, name, depth)
            return children.steps() if "steps" in template else children.dag()
        except Unresolved as error:
            return Node(name, "Error", str(error))

    def _tries(self, template: Mapping[str, Any], scope: Scope, name: str) -> Node:
        strategy = template.get("retryStrategy", {"limit": 0})
        backoff = strategy.get("backoff", {"duration": "0s"})
        wait_s = float(str(backoff["duration"]).removesuffix("s"))
        for number in range(int(strategy["limit"]) + 1):
            pod_name = f"{template['name']}-{uuid.uuid4().hex[:10]}"
            parts = resolved(template, {**scope, "pod.name": pod_name, "retries": str(number)})
            pod = self._pods.run(parts, pod_name)
            if pod.phase == "Succeeded":
                return Node(name, "Succeeded", outputs=pod.outputs)
            last = {"status": pod.phase, "exitCode": str(pod.exit_code), "message": pod.message}
            try:
                again = evaluate(strategy.get("expression", "true"), {"lastRetry": last})
            except ExpressionError as error:
                return Node(name, "Error", f"retryStrategy: {error}")
            if not again:
                return Node(name, pod.phase, pod.message)
            self._pause(wait_s)
            wait_s *= float(backoff.get("factor", 1))
        return Node(name, pod.phase, f"No more retries left: {pod.message}")


class _Children:
    """The calls of one execution of a template with steps or a dag."""

    def __init__(
        self,
        execution: _Execution,
        owner: str,
        template: Mapping[str, Any],
        scope: Scope,
        outer: Scope,
        name: str,
        depth: int,
    ) -> None:
        self._execution = execution
        self._owner = owner
        self._template = template
        self._scope = dict(scope)
        self._outer = outer
        self._name = name
        self._depth = depth
        self._nodes: list[Node] = []

    def steps(self) -> Node:
        for number, group in enumerate(self._template["steps"]):
            nodes = self._together(group, f"{self._name}[{number}]")
            if failed := self._take("steps", group, nodes):
                return self._ended(failed)
        return self._ended(None)

    def dag(self) -> Node:
        """In waves of what can run: which is how it is ordered, if not how early each begins."""
        waiting = {task["name"]: task for task in self._template["dag"]["tasks"]}
        done: set[str] = set()
        while waiting:
            ready = [
                task
                for task in waiting.values()
                if all(part.strip() in done for part in task.get("depends", "").split("&&") if part)
            ]
            if not ready:
                raise ValueError(f"dag {self._template['name']}: {sorted(waiting)} never can run")
            nodes = self._together(ready, self._name)
            if failed := self._take("tasks", ready, nodes):
                return self._ended(failed)
            for task in ready:
                done.add(task["name"])
                del waiting[task["name"]]
        return self._ended(None)

    def _together(self, calls: Sequence[Mapping[str, Any]], name: str) -> list[Node]:
        at_once = int(self._template.get("parallelism", 8))
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda call: self._call(call, f"{name}.{call['name']}"), calls))

    def _call(self, call: Mapping[str, Any], name: str) -> Node:
        if unknown := set(call) - _CALL_FIELDS:
            raise ValueError(f"call {call['name']}: {sorted(unknown)} is beyond this subset")
        if "withParam" not in call:
            return self._one(call, self._scope, name)
        items = json.loads(resolved(call["withParam"], self._scope))
        assert isinstance(items, list)
        at_once = int(self._template.get("parallelism", 8))
        with ThreadPoolExecutor(at_once) as pool:
            scopes = [{**self._scope, "item": _text(item)} for item in items]
            numbers = range(len(items))
            nodes = list(pool.map(lambda n: self._one(call, scopes[n], f"{name}({n})"), numbers))
        bad = next((node for node in nodes if node.failed), None)
        if bad is not None:
            return Node(name, bad.phase, bad.message, children=nodes)
        run = [node for node in nodes if node.phase != "Skipped"]
        names = {output for node in run for output in node.outputs}
        outputs = {key: json.dumps([_value(n.outputs[key]) for n in run]) for key in names}
        return Node(name, "Succeeded" if run else "Skipped", outputs=outputs, children=nodes)

    def _one(self, call: Mapping[str, Any], scope: Scope, name: str) -> Node:
        try:
            if "when" in call:
                decision = resolved(call["when"], scope)
                if decision not in ("true", "false"):
                    raise ValueError(f"{name}: when is {decision!r}, beyond this subset")
                if decision == "false":
                    return Node(name, "Skipped", f"when '{call['when']}' evaluated false")
            arguments = {
                entry["name"]: resolved(entry["value"], scope)
                for entry in call.get("arguments", {}).get("parameters", [])
            }
        except Unresolved as error:
            return Node(name, "Error", str(error))
        reference = call.get("templateRef")
        target = (
            (reference["name"], reference["template"])
            if reference
            else (self._owner, call["template"])
        )
        return self._execution.template(target, arguments, self._outer, name, self._depth + 1)

    def _take(
        self, kind: str, calls: Sequence[Mapping[str, Any]], nodes: Sequence[Node]
    ) -> Node | None:
        """Add what the calls gave to the scope; the first that failed, if it counts."""
        self._nodes += nodes
        bad = None
        for call, node in zip(calls, nodes, strict=True):
            prefix = f"{kind}.{call['name']}"
            self._scope[f"{prefix}.status"] = node.phase
            for output, text in node.outputs.items():
                self._scope[f"{prefix}.outputs.parameters.{output}"] = text
            tolerated = call.get("continueOn", {})
            if node.failed and not tolerated.get(node.phase.lower()):
                bad = bad or node
        return bad

    def _ended(self, failed: Node | None) -> Node:
        if failed is not None:
            return Node(self._name, failed.phase, failed.message, children=self._nodes)
        outputs = {}
        # Argo puts the workflow's arguments into `{{…}}`, and not into an expression's names.
        seen = {name: text for name, text in self._scope.items() if name not in self._outer}
        for entry in self._template.get("outputs", {}).get("parameters", []):
            source = entry["valueFrom"]
            if "parameter" in source:
                outputs[entry["name"]] = resolved(source["parameter"], self._scope)
            else:
                outputs[entry["name"]] = expression_text(source["expression"], seen)
        return Node(self._name, "Succeeded", outputs=outputs, children=self._nodes)


def _named(templates: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    for template in templates:
        if template["name"] == name:
            return template
    raise ValueError(f"no template {name!r}")


def _text(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item)


def _value(text: str) -> Any:
    """Argo makes a JSON list of the outputs of a loop: what is JSON stands there as such."""
    try:
        return json.loads(text)
    except ValueError:
        return text
