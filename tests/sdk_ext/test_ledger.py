"""What a step learns from the ledger, while another execution changes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sdk_ext.web import Answer, web
from tuft_sdk import Attempt, Finished, NotThere, Resubmit, StepLedger
from tuft_sdk.extension import ExtensionClient

BEGUN = {
    "step_key": "s",
    "state": "started",
    "first_seq_id": 4,
    "plan_object": "ledger/x",
    "attempts": [{"first_operation": 2, "first_seq_id": 9}],
    "overtaken_at": 11,
}
GONE = Answer(404, json.dumps({"detail": "no plan", "code": "not_found"}).encode())


def _entry(entry: dict[str, Any] | None) -> Answer:
    return Answer(200, json.dumps({"entry": entry}).encode())


def test_all_attempts_are_told() -> None:
    with web(_entry(BEGUN), Answer(200, b"plan")) as site, ExtensionClient(site.url, "k") as client:
        state = StepLedger(client, "r", 3).begin_step("s")
    assert state == Resubmit(b"plan", (Attempt(0, 4), Attempt(2, 9)), overtaken_at=11)


def test_a_plan_that_goes_since_another_execution_finished_the_step() -> None:
    answers = _entry(BEGUN), GONE, _entry({"state": "finished", "result": "r"})
    with web(*answers) as site, ExtensionClient(site.url, "k") as client:
        assert StepLedger(client, "tenant").begin_step("s") == Finished("r")
    with web(_entry(BEGUN), GONE, _entry(BEGUN)) as site, ExtensionClient(site.url, "k") as client:
        with pytest.raises(NotThere, match="no plan"):
            StepLedger(client, "tenant").begin_step("s")
        assert StepLedger(client, "tenant").result_of("s") is None
