"""Pods as local processes: a container's command with its environment, secrets and outputs.

A pod's own /tmp is a folder of this machine; `tuft-step` is this checkout's. What the kubelet and
Argo's containers would do around it is done here: secrets by reference, the deadline, exit codes of
signals, the termination message, output parameters and artifacts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

Phase = Literal["Succeeded", "Failed", "Error"]
_KILLED = 128


@dataclass(frozen=True)
class PodResult:
    """What Argo knows of a pod that ended."""

    name: str
    template: str
    phase: Phase
    exit_code: int
    message: str
    arguments: tuple[str, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Path] = field(default_factory=dict)

    def argument(self, name: str) -> str:
        """Of `tuft-step`: the value of --param, --input or --output `name`."""
        for text in self.arguments:
            option, _, value = text.partition("=")
            key, _, value = value.partition("=")
            if option in ("--param", "--input", "--output") and key == name:
                return value
        raise KeyError(name)


@dataclass
class Fault:
    """Something that happens to the `nth` pod of a template, counted over the whole workflow."""

    template: str
    nth: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that are different in this pod: a service that is not there, say."""
    kill_when: Callable[[], bool] | None = None
    """SIGKILL as soon as this is true."""
    lose: bool = False
    """The node goes away before the pod starts."""
    happened: bool = False


class Pods:
    """Runs them. Everything is below `folder`; `secrets` is name → key → value."""

    def __init__(
        self,
        folder: Path,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.folder = folder
        self.bucket = folder / "artifacts"
        self._secrets = secrets or {}
        self._faults = faults
        self._counts: dict[str, int] = {}
        self._lock = Lock()
        self.results: list[PodResult] = []
        """In the order in which they ended."""

    def run(self, template: Mapping[str, Any], name: str) -> PodResult:
        """`template` is resolved: nothing in it is left to replace."""
        fault = self._fault_of(template["name"])
        result = self._run(template, name, fault)
        with self._lock:
            self.results.append(result)
        return result

    def _fault_of(self, template: str) -> Fault | None:
        with self._lock:
            number = self._counts[template] = self._counts.get(template, 0) + 1
        for fault in self._faults:
            if (fault.template, fault.nth) == (template, number):
                return fault
        return None

    def _run(self, template: Mapping[str, Any], name: str, fault: Fault | None) -> PodResult:
        container = template["container"]
        arguments = tuple(container.get("args", []))

        def ended(phase: Phase, code: int, message: str, **outputs: Any) -> PodResult:
            return PodResult(name, template["name"], phase, code, message, arguments, **outputs)

        if fault is not None and fault.lose:
            fault.happened = True
            return ended("Error", -1, "pod deleted")
        tmp = self.folder / "pods" / name
        tmp.mkdir(parents=True)
        variables = self._environment(container, tmp)
        if isinstance(variables, str):
            return ended("Error", -1, variables)
        mounts = _empty_dirs(template, tmp)
        command = [_local(text, mounts) for text in (*container["command"], *arguments)]
        if command[0] == "tuft-step":
            command[:1] = [sys.executable, "-m", "tuft_components.cli"]
        if fault is not None:
            variables.update(fault.env)
            fault.happened = fault.happened or bool(fault.env)
        log = tmp / "log"
        code, late = _process(command, variables, log, template.get("activeDeadlineSeconds"), fault)
        if code != 0:
            said = (tmp / "termination").read_text() or log.read_text()[-2000:]
            why = "Pod was active on the node longer than the specified deadline" if late else said
            return ended("Failed", code, f"Error (exit code {code}): {why}")
        return self._collected(template, mounts, ended)

    def _environment(self, container: Mapping[str, Any], tmp: Path) -> dict[str, str] | str:
        """Or what is missing. Nothing of this process' own but what Python needs."""
        found = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TINKER", "AWS", "MINIO", "MLFLOW"))
        }
        found["OMP_NUM_THREADS"] = "1"
        found["TERMINATION_LOG"] = str(tmp / "termination")
        (tmp / "termination").touch()
        for entry in container.get("env", []):
            if "value" in entry:
                value = entry["value"]
                found[entry["name"]] = str(tmp) if value == "/tmp" else value
                continue
            source = entry["valueFrom"]["secretKeyRef"]
            secret = self._secrets.get(source["name"], {})
            if source["key"] in secret:
                found[entry["name"]] = secret[source["key"]]
            elif not source.get("optional"):
                return f"couldn't find key {source['key']} in Secret {source['name']}"
        return found

    def _collected(
        self,
        template: Mapping[str, Any],
        mounts: Mapping[str, Path],
        ended: Callable[..., PodResult],
    ) -> PodResult:
        """What Argo fetches from a pod that succeeded."""
        outputs, artifacts = {}, {}
        for entry in template.get("outputs", {}).get("parameters", []):
            path = Path(_local(entry["valueFrom"]["path"], mounts))
            if path.is_file():
                outputs[entry["name"]] = path.read_text().rstrip("\n")
            elif "default" in entry["valueFrom"]:
                outputs[entry["name"]] = entry["valueFrom"]["default"]
            else:
                return ended("Error", 0, f"no output parameter at {entry['valueFrom']['path']}")
        for entry in template.get("outputs", {}).get("artifacts", []):
            path = Path(_local(entry["path"], mounts))
            if path.is_file():
                kept = self.bucket / entry["s3"]["key"]
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, kept)
                artifacts[entry["name"]] = kept
            elif not entry.get("optional"):
                return ended("Error", 0, f"no artifact at {entry['path']}")
        return ended("Succeeded", 0, "", outputs=outputs, artifacts=artifacts)


def _empty_dirs(template: Mapping[str, Any], tmp: Path) -> dict[str, Path]:
    """Mount path → folder here, of the pod's own volumes."""
    volumes = {v["name"] for v in template.get("volumes", []) if "emptyDir" in v}
    mounted = template["container"].get("volumeMounts", [])
    return {mount["mountPath"]: tmp for mount in mounted if mount["name"] in volumes}


def _local(text: str, mounts: Mapping[str, Path]) -> str:
    """The same text, where it names a file for outputs in the pod's own /tmp: here."""
    for path, folder in mounts.items():
        text = text.replace(f"{path}/outputs/", f"{folder}/outputs/")
    return text


def _process(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    deadline_s: int | str | None,
    fault: Fault | None,
) -> tuple[int, bool]:
    """Its exit code as Kubernetes tells it, and whether the deadline ended it."""
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT)
    late = False
    while process.poll() is None:
        if fault is not None and fault.kill_when is not None and fault.kill_when():
            process.kill()
            fault.happened = True
        if deadline_s is not None and time.monotonic() - begun > float(deadline_s):
            process.send_signal(signal.SIGTERM)
            late = True
        time.sleep(0.02)
    code = process.returncode
    return (code if code >= 0 else _KILLED - code), late
