"""Steps through the plugin against a real service, which is late, with a plugin that is killed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.argo_plugin.plugin import (
    AGENT_TIMEOUT_S,
    Plugin,
    from_library,
    parameters,
    request,
    running_plugin,
)
from tests.components.samples import row
from tests.e2e.service import Service, running, write_config
from tests.waiting import wait_until
from tuft_components.batches import write_batch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def batch(folder: Path, number: int) -> Path:
    path = folder / f"batch-{number}.parquet"
    rows = [
        row(group_id=g, sample=n, prompt_tokens=[5 + number, 6, 7 + g], advantages=[a, a])
        for g in range(2)
        for n, a in enumerate((1.0, -0.5))
    ]
    write_batch(str(path), rows, {})
    return path


def update(folder: Path, run_id: str, iteration: int) -> dict[str, Any]:
    return request(
        from_library(
            "update",
            run_id=run_id,
            iteration=iteration,
            checkpoint_name=f"after-{iteration}",
            batch=batch(folder, iteration),
            work_uri=folder / "work",
        )
    )


def updates_behind(service: Service, run_id: str, checkpoint: str) -> int:
    folder = service.checkpoint_dir / "runs" / run_id / "weights" / checkpoint
    step: int = json.loads((folder / "manifest.json").read_text())["step"]
    return step


def succeeded(node: dict[str, Any]) -> dict[str, str]:
    assert node["phase"] == "Succeeded", node
    return parameters(node)


def start(uid: str) -> dict[str, Any]:
    return request(from_library("start-run", name="curve", lora_rank=4, seed=1), uid)


def start_while_the_service_is_late(
    plugin: Plugin, late: Callable[[], Service]
) -> tuple[Service, dict[str, str]]:
    """The service, and what came of a start_run that waited for it longer than a call may take."""
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(plugin.until_done, start("first"), 400)
        time.sleep(AGENT_TIMEOUT_S + 1)
        assert not future.done()
        service = late()
        outputs = succeeded(future.result())
    assert time.monotonic() - begun > AGENT_TIMEOUT_S
    assert plugin.longest_s < AGENT_TIMEOUT_S / 2
    assert plugin.tries() == 1, plugin.log
    return service, outputs


def test_updates_are_applied_once_whatever_happens_to_the_plugin(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    port = free_port()
    env = {"TINKER_BASE_URL": f"http://127.0.0.1:{port}"}
    keys = [{"key": "tml-local-dev-key", "tenant": "alice"}]
    config = write_config(tmp_path, tiny_model_folder, api_keys=keys)
    with running_plugin(tmp_path, env=env) as plugin, ExitStack() as stack:
        service, started = start_while_the_service_is_late(
            plugin,
            lambda: stack.enter_context(running(tmp_path / "service", config, port=port)),
        )
        _update_twice(tmp_path, env, plugin, service, started)


def _update_twice(
    folder: Path, env: dict[str, str], plugin: Plugin, service: Service, started: dict[str, str]
) -> None:
    run_id = started["run_id"]
    first = update(folder, run_id, 0)
    done = succeeded(plugin.until_done(first))
    assert done["policy"].endswith("/policy-000001")
    assert json.loads(done["metrics"])["optimizer_steps"] == 1.0
    tries = plugin.tries()
    assert succeeded(plugin.until_done(first)) == done
    assert plugin.tries() == tries, "the result of a success is kept"

    second = update(folder, run_id, 1)
    asking = ThreadPoolExecutor(1).submit(plugin.post, second)
    wait_until(plugin.steps, 30)
    time.sleep(1)  # in the middle of it, as far as one can tell
    plugin.process.kill()
    assert asking.exception() is not None  # Argo calls again where a connection breaks
    with running_plugin(folder, env=env) as next_plugin:
        # The next plugin knows nothing, and the service's ledger everything.
        assert succeeded(next_plugin.until_done(first)) == done
        assert succeeded(next_plugin.until_done(second))["policy"].endswith("/policy-000002")
        assert succeeded(next_plugin.until_done(start("submitted again"))) == started
        evaluate = from_library(
            "evaluate", policy=done["policy"], episodes=4, max_tokens=2, iteration=1
        )
        measured = succeeded(next_plugin.until_done(request(evaluate)))
        assert 0 <= float(measured["mean_reward"]) <= 1
        assert json.loads(measured["metrics"])["episodes"] == 4
        promote = from_library(
            "promote",
            policy=done["policy"],
            target_uri=folder / "models",
            model_name="curve",
            metric=measured["mean_reward"],
            model_uri=folder / "model.json",
        )
        promoted = succeeded(next_plugin.until_done(request(promote)))
        assert promoted["promoted"] == "true"
        assert promoted["uri"].startswith(str(folder / "models" / "curve"))
        assert promoted["model"] == str(folder / "model.json")
        assert (folder / "model.json").is_file()
        assert "card" not in promoted, "nobody asked for it to be kept here"
    assert updates_behind(service, run_id, "after-0") == 1
    assert updates_behind(service, run_id, "after-1") == 2
    records = {path.name for path in (folder / "work" / "records").iterdir()}
    assert records == {"000000-update-0000.json", "000001-update-0000.json"}
