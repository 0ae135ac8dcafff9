"""A step whose operations the service fails, or forgets: a real api and store, a played trainer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from tinker import types

import tuft_sdk
from tests.service.api.harness import ALICE, MODEL, Api, Trainer, config_of, serving
from tuft.contracts.operations import (
    ClearGradients,
    CreateModel,
    Operation,
    SaveWeightsForSampler,
    Tombstone,
)
from tuft.contracts.operations import (
    ForwardBackward as JournalledForwardBackward,
)
from tuft.contracts.wire import ForwardBackwardResult, encode_forward_backward_output
from tuft.store import connect, keys
from tuft_sdk.plans import ForwardBackward, OptimStep, Plan, SaveForSampler
from tuft_sdk.runs import run_stage


@dataclass
class Played:
    """A trainer that does everything at once, but what `fails` says (seq_id → category)."""

    trainer: Trainer
    store: Any
    fails: dict[int, str] = field(default_factory=dict)
    done: list[tuple[int, str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def work(self, run_ids: list[str]) -> None:
        while not self.stopping.wait(0.01):
            for run_id in list(run_ids):
                for entry in self.trainer.pending(run_id):
                    self._do(entry)

    def _do(self, entry: Operation | Tombstone) -> None:
        if isinstance(entry, Tombstone):
            self.trainer.store.journal.pass_tombstone(
                self.trainer.lease, entry.run_id, entry.seq_id
            )
            return
        category = self.fails.get(entry.seq_id)
        if category is not None:
            self.trainer.complete(entry, error="no room", category=category)
            return
        self.done.append((entry.seq_id, entry.body.kind))
        self.trainer.complete(entry, self._result(entry))

    def _result(self, entry: Operation) -> bytes | dict[str, Any]:
        match entry.body:
            case CreateModel():
                return {"model_id": entry.run_id, "type": "create_model"}
            case JournalledForwardBackward():
                rows = [np.zeros(3, dtype=np.float32)]
                result = ForwardBackwardResult(rows, {"loss:sum": float(entry.seq_id)})
                return encode_forward_backward_output(result)
            case ClearGradients():
                return {"type": "clear_gradients"}
            case SaveWeightsForSampler():
                path = f"tinker://{entry.run_id}/sampler_weights/{entry.body.name}"
                return {"path": path, "type": "save_weights_for_sampler"}
            case _:
                return {"metrics": {"grad_norm": 1.0}}


@pytest.fixture
def api(valkey_url: str, tmp_path: Path) -> Iterator[Api]:
    with serving(config_of(tmp_path), valkey_url) as running:
        yield running


@pytest.fixture
def run_ids() -> list[str]:
    return []


@pytest.fixture
def played(api: Api, run_ids: list[str]) -> Iterator[Played]:
    played = Played(Trainer(api.store), api.store)
    thread = threading.Thread(target=played.work, args=(run_ids,), daemon=True)
    thread.start()
    yield played
    played.stopping.set()
    thread.join(5)


@pytest.fixture
def run_id(api: Api, run_ids: list[str]) -> str:
    run_id = api.run()
    run_ids.append(run_id)
    return run_id


@pytest.fixture
def tuft(api: Api) -> Iterator[tuft_sdk.TuftClient]:
    with tuft_sdk.connect(api.url, ALICE, deadline_s=5) as client:
        yield client


def _plan() -> Plan:
    datum = types.Datum(
        model_input=types.ModelInput.from_ints([1, 2, 3]),
        loss_fn_inputs={"target_tokens": types.TensorData([2, 3, 4], "int64", [3])},
    )
    return Plan(
        [
            ForwardBackward([datum], "cross_entropy"),
            OptimStep(types.AdamParams()),
            SaveForSampler("p"),
        ],
        {"note": 7},
    )


def _conclude(plan: Plan, results: list[Any]) -> str:
    kinds = [type(operation).__name__ for operation in plan.operations]
    return f"{kinds} {[result is None for result in results]} {plan.notes['note']}"


def _must_not_build() -> Plan:
    raise AssertionError("built a second time")


def _once(tuft: tuft_sdk.TuftClient, run_id: str, build: Any = _plan) -> str:
    run = tuft.attach(run_id)
    try:
        return run.execute_once("s", build, _conclude, timeout_s=20)
    finally:
        run.close()


def test_a_save_that_found_no_room_is_made_alone_by_the_retry(
    played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    played.fails[4] = "server"
    with pytest.raises(tuft_sdk.OperationFailed, match="no room"):
        _once(tuft, run_id)
    result = "['ForwardBackward', 'OptimStep', 'SaveForSampler'] [False, False, False] 7"
    assert _once(tuft, run_id, _must_not_build) == result
    assert [kind for _, kind in played.done] == [
        "create_model",
        "clear_gradients",
        "forward_backward",
        "optim_step",
        "clear_gradients",
        "save_weights_for_sampler",
    ]
    assert played.done[-1][0] == 6
    assert _once(tuft, run_id, _must_not_build) == result


def test_an_update_that_failed_is_made_anew_by_the_retry(
    played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    """A failed forward_backward fails its optim_step too: nothing of them was applied."""
    played.fails.update({2: "server", 3: "user"})
    with pytest.raises(tuft_sdk.OperationFailed):
        _once(tuft, run_id)
    played.fails.update({5: "server", 6: "user"})
    with pytest.raises(tuft_sdk.OperationFailed):
        _once(tuft, run_id, _must_not_build)
    result = "['ForwardBackward', 'OptimStep', 'SaveForSampler'] [False, False, False] 7"
    assert _once(tuft, run_id, _must_not_build) == result
    assert [seq_id for seq_id, _ in played.done] == [0, 1, 4, 7, 8, 9, 10]


def test_what_the_user_did_wrong_stays_wrong(
    played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    played.fails.update({2: "user", 3: "user"})
    for build in (_plan, _must_not_build):
        with pytest.raises(tuft_sdk.Rejected, match="no room"):
            _once(tuft, run_id, build)
    assert played.done == [(0, "create_model"), (1, "clear_gradients")]


def test_results_that_expired_are_none(
    played: Played, run_id: str, valkey_url: str, tuft: tuft_sdk.TuftClient
) -> None:
    """The first execution died an hour ago; what it did is known, what came of it is not."""
    run = tuft.attach(run_id)
    run.ledger.begin_step("s", first_seq_id=run.next_seq_id)
    run.ledger.record_plan("s", _plan().encode(), first_seq_id=run.next_seq_id)
    run_stage(run.begin_plan(1, "s#1"), _plan().stages()[0], 20)
    run.close()
    for seq_id in (2, 3):
        assert connect(valkey_url).delete(keys.future(f"{run_id}:{seq_id}"))
    assert _once(tuft, run_id, _must_not_build).split("]")[1] == " [True, True, False"


def test_a_service_that_answers_too_slowly_is_transient(
    api: Api, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    """Nobody trains here. The retry would find its operations in the journal."""
    run = tuft.attach(run_id)
    with pytest.raises(tuft_sdk.Transient):
        run.execute_once("s", _plan, _conclude, timeout_s=0.3)
    run.close()
    assert api.store.runs.status(run_id).next_seq_id == 4


def test_the_sdks_client_counts_on_where_it_was_told(
    played: Played, run_id: str, api: Api, tuft: tuft_sdk.TuftClient
) -> None:
    run = tuft.attach(run_id)
    assert run.next_seq_id == 1
    assert isinstance(run.training, tinker.TrainingClient)
    assert run.training.model_id == run_id
    assert run.base_model == MODEL
    run.training.optim_step(types.AdamParams()).result(timeout=20)
    run.close()
    assert api.store.runs.status(run_id).next_seq_id == 2


def test_a_checkpoint_knows_its_step(
    played: Played, run_id: str, api: Api, tuft: tuft_sdk.TuftClient
) -> None:
    _once(tuft, run_id)
    bodies = [entry.body for entry in api.store.journal.entries(run_id, 3, 1)]  # type: ignore[union-attr]
    assert [getattr(body, "step_key", None) for body in bodies] == ["s"]


@pytest.mark.parametrize("step_key", ["", "a\nb", "schlüssel", "x" * 501])
def test_step_keys_are_plain_text(
    step_key: str, run_id: str, played: Played, tuft: tuft_sdk.TuftClient
) -> None:
    run = tuft.attach(run_id)
    with pytest.raises(tuft_sdk.ConfigurationError, match="1 to 500 printable"):
        run.execute_once(step_key, _must_not_build, _conclude)
    run.close()


def test_a_finished_step_gives_its_result_and_takes_the_run_from_nobody(
    played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    result = tuft.execute_once(run_id, "s", lambda _run: _plan(), _conclude, timeout_s=20)
    at_work = tuft.attach(run_id)
    again = tuft.execute_once(run_id, "s", lambda _run: _must_not_build(), _conclude)
    assert again == result
    assert at_work.execute_once("t", _plan, _conclude, timeout_s=20) == result
    at_work.close()
    with pytest.raises(tuft_sdk.NotThere):
        tuft.execute_once("nobody:train:0", "s", lambda _run: _must_not_build(), _conclude)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("late", ["build", "conclude"])
def test_the_late_one_of_two_gets_the_result_or_has_lost_the_lease(
    late: str, finished: bool, played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    """Another copy attaches while the first one makes its plan, or its result."""

    def other() -> None:
        if finished:
            results.append(_once(tuft, run_id))
        else:
            tuft.attach(run_id).close()

    def build() -> Plan:
        if late == "build":
            other()
        return _plan()

    def conclude(plan: Plan, values: list[Any]) -> str:
        if late == "conclude":
            other()
        return "of the late one " + _conclude(plan, values)

    results: list[str] = []
    run = tuft.attach(run_id)
    if finished:
        assert [run.execute_once("s", build, conclude, timeout_s=20)] == results
    else:
        with pytest.raises(tuft_sdk.LeaseLost, match="lease lost: another process attached"):
            run.execute_once("s", build, conclude, timeout_s=20)
    run.close()
    assert [kind for _, kind in played.done].count("optim_step") == (finished or late != "build")


@pytest.mark.parametrize("sent", [None, 0, 1, 2, 3])
def test_a_step_that_was_overtaken_does_what_is_left_of_it(
    sent: int | None, played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    """It died after `sent` operations (None: after its plan); another step then used the run."""
    died = tuft.attach(run_id)
    died.ledger.begin_step("s")
    died.ledger.record_plan("s", _plan().encode(), first_seq_id=1)
    if sent is not None:
        run_stage(died.begin_plan(1, "s#1"), _plan().operations[:sent], 20)
    died.close()
    assert tuft.execute_once(run_id, "t", lambda _run: _plan(), _conclude, timeout_s=20)
    others = len(played.done)
    result = _once(tuft, run_id, _must_not_build)
    assert result == "['ForwardBackward', 'OptimStep', 'SaveForSampler'] [False, False, False] 7"
    kinds = [kind for _, kind in played.done]
    assert kinds.count("optim_step") == kinds.count("save_weights_for_sampler") == 2
    # Gradients that the other step cleared are computed again.
    left = {2: kinds[-1:], 3: []}.get(sent or 0, ["forward_backward", "optim_step", kinds[-1]])
    assert kinds[others:] == (["clear_gradients", *left] if left else [])
    assert _once(tuft, run_id, _must_not_build) == result
    assert [seq_id for seq_id, _ in played.done] == list(range(len(played.done)))


def test_a_step_that_two_overtook_and_that_failed_meanwhile(
    played: Played, run_id: str, tuft: tuft_sdk.TuftClient
) -> None:
    """Its save was never sent, and the retry learns that its update had failed as well."""
    died = tuft.attach(run_id)
    died.ledger.begin_step("s")
    died.ledger.record_plan("s", _plan().encode(), first_seq_id=1)
    played.fails.update({2: "server", 3: "user"})
    with pytest.raises(tuft_sdk.OperationFailed):
        run_stage(died.begin_plan(1, "s#1"), _plan().operations[:2], 20)
    died.close()
    for key in ("t", "u"):
        assert tuft.execute_once(run_id, key, lambda _run: _plan(), _conclude, timeout_s=20)
    with pytest.raises(tuft_sdk.OperationFailed):
        _once(tuft, run_id, _must_not_build)
    assert _once(tuft, run_id, _must_not_build)
    kinds = [kind for _, kind in played.done]
    assert kinds.count("optim_step") == kinds.count("save_weights_for_sampler") == 3
