"""The plugin's process, and calls to it as Argo's agent makes them."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.waiting import wait_until
from tuft_components.argo_plugin.manifest import library
from tuft_components.profile import Profile

TOKEN = "xnkq7d5bzlwvj9m4rctx8h6fgp2s0yka"  # 32 letters and digits, as Argo makes them
AGENT_TIMEOUT_S = 30
"""Of a call; workflow/executor/plugins/rpc/plugin.go."""
NOWHERE = "http://127.0.0.1:9"
"""No service is there."""


@dataclass
class Plugin:
    """A running sidecar. `log` is what it wrote to its standard error."""

    process: subprocess.Popen[str]
    token_file: Path
    log: list[str] = field(default_factory=list)
    url: str = ""
    longest_s: float = 0.0
    """The longest call so far."""

    def post(self, body: Any, token: str | None = TOKEN) -> httpx.Response:
        headers = {b"Content-Type": b"application/json"}
        if token is not None:
            headers[b"Authorization"] = f"Bearer {token}".encode("latin-1")
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        begun = time.monotonic()
        try:
            return httpx.post(
                f"{self.url}/api/v1/template.execute",
                content=data,
                headers=headers,
                timeout=AGENT_TIMEOUT_S,
            )
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - begun)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a call that is in order."""
        response = self.post(request)
        assert response.status_code == 200, response.text
        reply: dict[str, Any] = response.json()
        return reply

    def until_done(self, request: Mapping[str, Any], timeout_s: float = 100) -> dict[str, Any]:
        """Call as the agent does (but do not wait as long between), until the node has ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            reply = self.ask(request)
            if "requeue" not in reply:
                assert reply["node"]["phase"] in ("Succeeded", "Failed", "Error")
                node: dict[str, Any] = reply["node"]
                return node
            assert reply["node"]["phase"] in ("Pending", "Running")
            assert re.fullmatch(r"\d+s", reply["requeue"])
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)

    def steps(self) -> list[psutil.Process]:
        """Processes of steps that are at work."""
        return psutil.Process(self.process.pid).children()

    def tries(self) -> int:
        """How often a step was begun."""
        return sum(": try " in line for line in list(self.log))


@contextmanager
def running_plugin(
    folder: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Plugin]:
    """`python -m tuft_components.argo_plugin`, ready; killed at the end."""
    token_file = folder / "token"
    if not token_file.exists():
        token_file.write_text(TOKEN)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TINKER", "AWS", "TUFT"))}
    tmp = folder / "tmp"
    tmp.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tuft_components.argo_plugin"),
            *("--port=0", f"--token-file={token_file}"),
            *options,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **inherited,
            "TMPDIR": str(tmp),
            "OMP_NUM_THREADS": "1",
            "TINKER_BASE_URL": NOWHERE,
            "TINKER_API_KEY": "tml-local-dev-key",
            **(env or {}),
        },
    )
    plugin = Plugin(process, token_file)
    reader = threading.Thread(target=_read, args=(process, plugin.log), daemon=True)
    reader.start()
    try:
        wait_until(lambda: process.poll() is not None or "listening" in "".join(plugin.log), 60)
        match = re.search(r"listening on (http://\S+)", "".join(plugin.log))
        assert match, plugin.log
        plugin.url = match.group(1)
        yield plugin
    finally:
        process.kill()
        process.wait(10)
        reader.join(5)
        assert process.stderr is not None
        process.stderr.close()


def _read(process: subprocess.Popen[str], into: list[str]) -> None:
    assert process.stderr is not None
    into.extend(process.stderr)


def request(template: Mapping[str, Any], uid: str = "7a5e1d0c") -> dict[str, Any]:
    """As Argo 4.1 sends it."""
    return {
        "workflow": {"metadata": {"name": "grpo-x2vzq", "namespace": "team", "uid": uid}},
        "template": dict(template),
    }


def plugin_template(content: Any) -> dict[str, Any]:
    """A user's own."""
    return {
        "name": "mine",
        "inputs": {},
        "outputs": {},
        "metadata": {},
        "plugin": {"tuft": content},
    }


def from_library(name: str, /, **arguments: object) -> dict[str, Any]:
    """The template of `tuft-steps-plugin` with its inputs filled in, as Argo's controller does."""
    templates = {item["name"]: item for item in library(Profile())["spec"]["templates"]}
    template = copy.deepcopy(templates[name])
    values: dict[str, str] = {}
    for parameter in template["inputs"]["parameters"]:
        value = arguments.pop(parameter["name"], parameter.get("default"))
        assert value is not None, f"no argument {parameter['name']}"
        parameter["value"] = values[parameter["name"]] = str(value)
    assert not arguments, f"no input {sorted(arguments)}"
    text = re.sub(
        r"\{\{inputs\.parameters\.([\w-]+)\}\}",
        lambda match: json.dumps(values[match.group(1)])[1:-1],
        json.dumps(template),
    )
    filled: dict[str, Any] = json.loads(text)
    return filled


def parameters(node: Mapping[str, Any]) -> dict[str, str]:
    """Output parameters of a node, as Argo reads them."""
    return {item["name"]: item["value"] for item in node["outputs"]["parameters"]}
