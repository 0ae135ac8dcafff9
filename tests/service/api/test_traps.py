"""The traps of reference/tinker-protocol.md §0 that the api alone can show, by their numbers."""

from __future__ import annotations

import time
from pathlib import Path

import zstandard

from tests.service.api.harness import (
    Api,
    Trainer,
    base_sampler,
    batch,
    claim_sample,
    config_of,
    create_model_body,
    ok,
    refused,
    sample_body,
    serving,
)
from tuft.contracts.operations import ForwardBackward, Operation, Tombstone

ADAM = {"adam_params": {"learning_rate": 1e-4}, "type": "optim_step"}


def test_1_proto_results_say_that_they_are_protobuf(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    request_id = ok(api.forward_backward(batch(run_id, 1)))["request_id"]
    create, forward_backward = trainer.pending(run_id)
    trainer.complete(create, {"model_id": run_id})
    trainer.complete(forward_backward, b"\x0a\x01x")
    answer = api.retrieve(request_id)
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert answer.content == b"\x0a\x01x"


def test_1_an_empty_proto_result_says_so_too(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    request_id = ok(api.forward_backward(batch(run_id, 1)))["request_id"]
    create, forward_backward = trainer.pending(run_id)
    trainer.complete(create, {})
    trainer.complete(forward_backward, b"")
    answer = api.retrieve(request_id)
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert answer.content == b""


def test_2_forward_only_comes_to_the_same_endpoint(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    ok(api.forward_backward(batch(run_id, 1, forward_only=True)))
    ok(api.forward_backward(batch(run_id, 2, forward_only=False)))
    bodies = [entry.body for entry in trainer.pending(run_id)[1:] if isinstance(entry, Operation)]
    assert bodies == [
        ForwardBackward(forward_only=True, rows=1, tokens=4),
        ForwardBackward(forward_only=False, rows=1, tokens=4),
    ]


def test_2_the_body_may_be_a_zstd_frame(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    plain = batch(run_id, 1)
    ok(api.forward_backward(zstandard.ZstdCompressor().compress(plain), encoding="zstd"))
    operation = trainer.pending(run_id)[1]
    assert isinstance(operation, Operation)
    assert api.store.journal.payload(operation) == plain


def test_3_asample_names_exactly_its_sequences(api: Api) -> None:
    sampler_id = base_sampler(api)
    stub = ok(api.post("asample", sample_body(sampler_id, num_samples=3)))
    assert len(set(stub["sample_sequence_ids"])) == 3
    again = ok(api.post("asample", sample_body(sampler_id, num_samples=3)))
    assert again == stub
    assert claim_sample(api.store, stub["request_id"]).op.num_samples == 3


def test_4_the_model_id_is_the_one_that_the_client_derives(api: Api) -> None:
    session_id = api.session()
    stub = ok(api.post("create_model", create_model_body(session_id, 7)))
    assert stub["model_id"] == f"{session_id}:train:7"
    assert api.store.runs.get(f"{session_id}:train:7").session_id == session_id


def test_6_chunks_may_come_in_any_order(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    for seq_id in (2, 3, 1):
        if seq_id == 1:
            assert [entry.seq_id for entry in trainer.pending(run_id)] == [0]
        ok(api.forward_backward(batch(run_id, seq_id)))
    ok(api.post("optim_step", {"model_id": run_id, "seq_id": 4, **ADAM}))
    entries = trainer.pending(run_id)
    assert [entry.seq_id for entry in entries] == [0, 1, 2, 3, 4]
    assert all(isinstance(entry, Operation) for entry in entries)


def test_7_a_refused_request_burns_its_seq_id(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    refused(api.forward_backward(batch(run_id, 1, tokens=[9999])))
    refused(api.post("save_weights", {"model_id": run_id, "seq_id": 2, "path": "a/b"}))
    ok(api.post("optim_step", {"model_id": run_id, "seq_id": 3, **ADAM}))
    entries = trainer.pending(run_id)
    assert [(e.seq_id, e.poisons) for e in entries if isinstance(e, Tombstone)] == [
        (1, True),
        (2, False),
    ]
    assert [e.seq_id for e in entries if isinstance(e, Operation)] == [0, 3]


def test_7_a_refused_forward_does_not_spoil_the_next_step(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    refused(api.forward_backward(batch(run_id, 1, tokens=[9999], forward_only=True)))
    tombstone = trainer.pending(run_id)[1]
    assert isinstance(tombstone, Tombstone)
    assert not tombstone.poisons


def test_7_the_sdk_in_order_proves_a_gap_dead(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    ok(api.forward_backward(batch(run_id, 2), **{"x-sdk-version": "0.38.0"}))
    missing = trainer.pending(run_id)[1]
    assert isinstance(missing, Tombstone)
    assert missing.poisons


def test_7_a_raw_client_leaves_a_gap_open_until_another_kind_comes(
    api: Api, trainer: Trainer
) -> None:
    run_id = api.run()
    ok(api.forward_backward(batch(run_id, 2)))
    assert len(trainer.pending(run_id)) == 1
    ok(api.post("optim_step", {"model_id": run_id, "seq_id": 3, **ADAM}))
    assert [type(entry) for entry in trainer.pending(run_id)[1:]] == [
        Tombstone,
        Operation,
        Operation,
    ]


def test_8_a_poll_is_held_and_then_answered_408(module_store: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, long_poll_s=0.5), module_store) as api:
        request_id = f"{api.run()}:0"
        began = time.monotonic()
        answer = api.retrieve(request_id)
        assert 0.4 < time.monotonic() - began < 5
    assert answer.status_code == 408
    assert answer.json() == {
        "type": "try_again",
        "request_id": request_id,
        "queue_state": "active",
    }


def test_8_a_poll_of_a_run_that_waits_for_its_turn_says_so(
    module_store: str, tmp_path: Path
) -> None:
    with serving(config_of(tmp_path, long_poll_s=0.1), module_store) as api:
        run_id = api.run()
        base_model = api.services.store.runs.get(run_id).base_model
        api.services.store.queues.publish(base_model, {run_id: "32 others are under way"})
        answer = api.retrieve(f"{run_id}:0")
    assert answer.status_code == 408
    assert answer.json()["queue_state"] == "paused_capacity"
    assert answer.json()["queue_state_reason"] == "32 others are under way"


def test_9_permanent_errors_have_permanent_statuses(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    ok(api.forward_backward(batch(run_id, 1)))
    conflict = api.forward_backward(batch(run_id, 1, tokens=[1]))
    assert "seq_id 1" in refused(conflict, 400)
    assert conflict.json()["code"] == "conflict"


def test_10_every_error_has_a_body_with_a_length(api: Api) -> None:
    for response in (
        api.post("get_info", {"model_id": "nothing"}),
        api.post("optim_step", {}),
        api.http.post("/api/v1/optim_step", content=b"{"),
        api.get("nowhere"),
        api.http.request("PATCH", "/api/v1/optim_step"),
        api.get("sessions?limit=0"),
    ):
        refused(response, response.status_code)
        assert "transfer-encoding" not in response.headers
        assert 400 <= response.status_code < 500
