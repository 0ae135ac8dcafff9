"""How long results are kept, and for how many. Steps stand still here: time is what is tested."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tuft_components.argo_plugin import executions
from tuft_components.argo_plugin.calls import Call
from tuft_components.argo_plugin.executions import Executions, Limits, Stopping
from tuft_components.argo_plugin.step_process import Outcome


class Steps:
    """In the place of processes: each ends when it is told to, or at once."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def run(self, name: str, arguments: Sequence[str]) -> Outcome:
        self.begun.append(name.split()[1])
        await self.may_end.wait()
        return Outcome(0, {"run_id": f"run {len(self.begun)}", "policy": "p"}, "")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    monkeypatch.setattr(executions, "run_step", steps.run)
    return steps


def call(key: str) -> Call:
    return Call(key, "start_run", {}, {}, {})


async def test_a_result_is_kept_for_a_while(steps: Steps) -> None:
    lasting = Executions(Limits(keep_s=60))
    first = await lasting.ask(call("a"))
    assert first.parameters == {"run_id": "run 1", "policy": "p"}
    assert await lasting.ask(call("a")) == first
    assert (await lasting.ask(call("b"))).parameters["run_id"] == "run 2"
    short = Executions(Limits(keep_s=0.05))
    await short.ask(call("a"))
    await asyncio.sleep(0.1)
    await short.ask(call("a"))
    assert steps.begun == ["a", "b", "a", "a"]


async def test_the_oldest_result_goes_where_there_is_no_room(steps: Steps) -> None:
    some = Executions(Limits(most=2))
    for key in ("a", "b", "c", "b", "a"):
        await some.ask(call(key))
    assert steps.begun == ["a", "b", "c", "a"]


async def test_where_all_are_under_way_the_next_is_asked_for_again(steps: Steps) -> None:
    steps.may_end.clear()
    full = Executions(Limits(most=1, wait_s=0.01))
    assert (await full.ask(call("a"))).phase == "Running"
    refused = await full.ask(call("b"))
    assert (refused.phase, refused.requeue_s) == ("Pending", 30)
    assert steps.begun == ["a"]
    steps.may_end.set()
    await asyncio.sleep(0.01)
    assert (await full.ask(call("b"))).phase == "Succeeded"


async def test_who_waits_is_told_that_the_plugin_stops(steps: Steps) -> None:
    steps.may_end.clear()
    stopping = Executions(Limits(wait_s=60))
    waiting = asyncio.create_task(stopping.ask(call("a")))
    await asyncio.sleep(0.01)
    await stopping.close()
    with pytest.raises(Stopping):
        await waiting
    with pytest.raises(Stopping):
        await stopping.ask(call("b"))
    assert steps.begun == ["a"]
