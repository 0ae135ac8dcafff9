"""The plugin's process over HTTP, without a service: steps that fail, in all their ways."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.argo_plugin.plugin import (
    TOKEN,
    Plugin,
    from_library,
    plugin_template,
    request,
    running_plugin,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    folder = tmp_path_factory.mktemp("plugin")
    with running_plugin(folder, "--tries=2", "--backoff-s=0.1", "--wait-s=25") as plugin:
        yield plugin


def test_only_who_has_the_token_is_heard(plugin: Plugin) -> None:
    theirs = request({"name": "n", "plugin": {"slack": {}}})
    for token in (None, "x", TOKEN[:-1], "é"):
        assert plugin.post(theirs, token).status_code == 403
    # The token is read at each call.
    plugin.token_file.write_text("another")
    assert plugin.post(theirs).status_code == 403
    assert plugin.post(theirs, "another").status_code == 200
    plugin.token_file.rename(plugin.token_file.with_suffix(".gone"))
    unreadable = plugin.post(theirs)
    assert unreadable.status_code == 503  # Argo tries again
    assert "token can't be read" in unreadable.text
    plugin.token_file.write_text(TOKEN)


def test_templates_of_other_plugins_are_left_to_them(plugin: Plugin) -> None:
    assert plugin.ask(request({"name": "n", "inputs": {}, "plugin": {"slack": {"a": 1}}})) == {}


def test_what_is_no_request_is_refused(plugin: Plugin) -> None:
    nonsense = plugin.post(b"nonsense")
    assert (nonsense.status_code, "Invalid JSON" in nonsense.text) == (400, True)
    assert plugin.post(b" " * 5_000_000).status_code == 413


def test_a_template_that_is_wrong_fails_for_good(plugin: Plugin) -> None:
    reply = plugin.ask(request(plugin_template({"step": "rollout"})))
    assert "requeue" not in reply
    assert reply["node"]["phase"] == "Failed"
    assert reply["node"]["outputs"] == {"exitCode": "78"}
    assert "template mine: the plugin runs no step 'rollout'" in reply["node"]["message"]


def test_a_step_that_fails_tells_why(plugin: Plugin, tmp_path: Path) -> None:
    batch, before = tmp_path / "missing.parquet", plugin.tries()
    missing = request(from_library("update", run_id="r", batch=batch))
    node = plugin.until_done(missing)
    assert node["phase"] == "Failed"
    assert node["outputs"] == {"exitCode": "65"}
    assert node["message"] == (f"tuft-step update (exit code 65): the input {batch} does not exist")
    # A failure is told, not kept: when it is asked for again, Argo retries.
    assert plugin.until_done(missing) == node
    assert plugin.tries() - before == 2


def test_a_service_that_is_away_is_tried_again_once_for_all_who_ask(plugin: Plugin) -> None:
    before = plugin.tries()
    away = request(from_library("start-run", timeout_s=0.5), uid="duplicates")
    with ThreadPoolExecutor(4) as pool:
        nodes = list(pool.map(lambda _: plugin.until_done(away), range(4)))
    assert plugin.tries() - before == 2, plugin.log
    assert all(node == nodes[0] for node in nodes)
    assert nodes[0]["phase"] == "Error"
    assert nodes[0]["outputs"] == {"exitCode": "75"}
    assert "start_run failed 2 times" in nodes[0]["message"]
    assert "no connection to the service" in nodes[0]["message"]


def test_a_step_that_is_killed_or_cannot_run_is_tried_again(plugin: Plugin) -> None:
    before = plugin.tries()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(
            plugin.until_done, request(from_library("start-run", timeout_s=60), uid="killed")
        )
        for number in (1, 2):
            wait_until(lambda n=number: plugin.tries() == before + n and plugin.steps(), 30)  # type: ignore[misc]
            plugin.steps()[0].kill()
        node = asking.result()
    assert node["phase"] == "Error"
    assert node["outputs"] == {"exitCode": "137"}  # as a pod that was killed for its memory
    assert "failed 2 times, at last: the step was killed by signal 9" in node["message"]
    tmp = plugin.token_file.parent / "tmp"
    tmp.rename(tmp.with_suffix(".gone"))
    node = plugin.until_done(request(from_library("start-run"), uid="no folder for it"))
    assert node["phase"] == "Error"
    assert node["outputs"] == {"exitCode": "75"}
    assert "its process can't run" in node["message"]
    tmp.with_suffix(".gone").rename(tmp)


def test_a_plugin_that_is_killed_takes_its_steps_along_and_the_next_begins_again(
    tmp_path: Path,
) -> None:
    waiting = request(from_library("start-run", timeout_s=60))
    with running_plugin(tmp_path, "--wait-s=0.1") as first:
        reply = first.ask(waiting)
        assert reply["node"]["phase"] == "Running"
        assert reply["requeue"] == "5s"
        wait_until(first.steps, 30, "the step's process begins")
        (step,) = first.steps()
        first.process.kill()
        wait_until(lambda: not step.is_running(), 30, "the step ends with the plugin")
    left = set((tmp_path / "tmp").iterdir())
    with running_plugin(tmp_path, "--wait-s=0.1", "--workers=1") as second:
        assert second.ask(waiting)["node"]["phase"] == "Running"
        assert second.ask(waiting)["node"]["phase"] == "Running"
        assert second.tries() == 1
        other = second.ask(request(from_library("start-run", timeout_s=61)))
        assert other["node"]["phase"] == "Pending"
        assert "waits for a worker" in other["node"]["message"]
        wait_until(second.steps, 30, "the step's process begins")
        (step,) = second.steps()
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(60) == 0
        assert not psutil.pid_exists(step.pid)
        assert set((tmp_path / "tmp").iterdir()) == left
