"""Accepting training requests: identity, repeats, refusals, writers, queues, payloads."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import (
    Api,
    Trainer,
    batch,
    config_of,
    create_model_body,
    ok,
    refused,
    serving,
)
from tests.waiting import wait_until
from tuft.contracts.operations import CreateModel, Operation, SaveWeightsForSampler, Tombstone
from tuft.store import connect

SDK = {"x-sdk-version": "0.38.0"}


def step(run_id: str, seq_id: int, **adam: Any) -> dict[str, Any]:
    return {"model_id": run_id, "seq_id": seq_id, "adam_params": adam, "type": "optim_step"}


def test_a_repeat_gets_the_same_request_id(api: Api) -> None:
    run_id = api.run()
    first = ok(api.forward_backward(batch(run_id, 1)))
    assert first == {"request_id": f"{run_id}:1", "model_id": run_id}
    assert ok(api.forward_backward(batch(run_id, 1))) == first


def test_a_repeat_after_the_result_gets_the_same_request_id(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    first = ok(api.post("optim_step", step(run_id, 1)))
    trainer.complete_all(run_id)
    assert ok(api.post("optim_step", step(run_id, 1))) == first
    assert trainer.pending(run_id) == []


def test_another_payload_under_a_seq_id_is_refused(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    ok(api.post("optim_step", step(run_id, 1, learning_rate=1e-3)))
    assert "seq_id 1" in refused(api.post("optim_step", step(run_id, 1, learning_rate=1e-4)))
    refused(api.forward_backward(batch(run_id, 1)))
    kept = trainer.pending(run_id)[1]
    assert isinstance(kept, Operation)
    assert kept.body.kind == "optim_step"


def test_a_refused_seq_id_gets_the_same_refusal(api: Api) -> None:
    run_id = api.run()
    first = refused(api.forward_backward(batch(run_id, 1, tokens=[9999])))
    assert refused(api.forward_backward(batch(run_id, 1, tokens=[7777]))) == first
    assert refused(api.forward_backward(batch(run_id, 1))) == first


def test_a_refusal_keeps_its_status(api: Api) -> None:
    run_id = api.run()
    body = {"model_id": run_id, "seq_id": 1, "optimizer": False}
    missing = api.post("load_weights", body | {"path": f"tinker://{run_id}/weights/none"})
    again = api.post("optim_step", step(run_id, 1))
    assert refused(again, 404) == refused(missing, 404)


def test_a_run_keeps_the_seed_that_its_first_request_drew(api: Api, trainer: Trainer) -> None:
    session_id = api.session()
    first = ok(api.post("create_model", create_model_body(session_id)))
    assert ok(api.post("create_model", create_model_body(session_id))) == first
    (operation,) = trainer.pending(first["model_id"])
    assert isinstance(operation, Operation)
    assert isinstance(operation.body, CreateModel)
    assert operation.body.lora == api.store.runs.get(first["model_id"]).lora
    refused(api.post("create_model", create_model_body(session_id, rank=4)))


def test_seeds_differ_and_a_given_one_is_kept(api: Api) -> None:
    seeds = {api.store.runs.get(api.run()).lora.seed for _ in range(3)}
    assert len(seeds) == 3
    stub = ok(api.post("create_model", create_model_body(api.session(), seed=-5)))
    assert api.store.runs.get(stub["model_id"]).lora.seed == -5


def test_a_full_queue_burns_nothing(module_store: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, max_pending_operations=2), module_store) as api:
        trainer = Trainer(api.store)
        run_id = api.run()
        ok(api.post("optim_step", step(run_id, 1)))
        full = api.post("optim_step", step(run_id, 2))
        assert "max_pending_operations" in refused(full, 429)
        assert full.headers["retry-after"] == "1"
        assert len(trainer.pending(run_id)) == 2
        trainer.complete_all(run_id)
        ok(api.post("optim_step", step(run_id, 2)))
        assert isinstance(trainer.pending(run_id)[0], Operation)


def test_a_tenant_that_has_too_much_pending_is_told_so(valkey_url: str, tmp_path: Path) -> None:
    with serving(
        config_of(tmp_path, max_tenant_operations=3, max_journal_operations=4), valkey_url
    ) as api:
        trainer = Trainer(api.store)
        first, second = api.run(), api.run()
        ok(api.post("optim_step", step(first, 1)))
        told = refused(api.post("optim_step", step(second, 1)), 429)
        assert "alice has 3 operations waiting in its training runs" in told
        for seq in (1, 2, 3):
            trainer.complete_all(first)
            trainer.complete_all(second)
            ok(api.post("optim_step", step(second, seq)))
        trainer.complete_all(second)
        told = refused(api.post("optim_step", step(second, 4)), 429)
        assert "limits.max_journal_operations" in told
        assert trainer.pending(second) == []


def test_a_model_that_is_still_loading_burns_nothing(fresh_api: Api, valkey_url: str) -> None:
    run_id = fresh_api.run()
    connect(valkey_url).delete("tuft:models")
    session_id, numbers = fresh_api.session(), itertools.count()

    def create() -> httpx.Response:
        return fresh_api.post("create_model", create_model_body(session_id, next(numbers)))

    # The api remembers the model for two seconds.
    wait_until(lambda: create().status_code == 503, 5)
    response = fresh_api.forward_backward(batch(run_id, 1))
    assert "still being loaded" in refused(response, 503)
    assert response.headers["retry-after"] == "1"
    assert len(Trainer(fresh_api.store).pending(run_id)) == 1


def test_a_stale_writer_is_refused_and_burns_nothing(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    ok(api.post("optim_step", step(run_id, 1)))
    attached = ok(api.post(f"tuft/runs/{run_id}/attach", {}))
    assert attached["writer_epoch"] == 1
    assert attached["next_seq_id"] == 2
    assert attached["lora_rank"] == 8
    stale = api.post("optim_step", step(run_id, 2))
    assert stale.json()["code"] == "stale_writer"
    refused(stale)
    spoilt = api.forward_backward(batch(run_id, 2, tokens=[9999]))
    assert spoilt.json()["code"] == "stale_writer"
    ahead = api.post("optim_step", step(run_id, 2), **{"X-Tuft-Writer-Epoch": "2"})
    assert ahead.json()["code"] == "stale_writer"
    ok(api.post("optim_step", step(run_id, 2), **{"X-Tuft-Writer-Epoch": "1"}))
    assert all(isinstance(entry, Operation) for entry in trainer.pending(run_id))


@pytest.mark.parametrize("epoch", ["-1", "x", "1.5", "²"])
def test_a_writer_epoch_is_a_number(api: Api, epoch: str) -> None:
    headers = {b"X-Tuft-Writer-Epoch": epoch.encode("latin-1")}
    response = api.http.post("/api/v1/optim_step", json={}, headers=headers)
    assert "Writer-Epoch" in refused(response)


def test_a_large_payload_is_an_object_before_it_is_accepted(
    module_store: str, tmp_path: Path
) -> None:
    with serving(config_of(tmp_path, inline_payload_bytes=100), module_store) as api:
        trainer = Trainer(api.store)
        run_id = api.run()
        ok(api.forward_backward(batch(run_id, 1, rows=20)))
        operation = trainer.pending(run_id)[1]
        assert isinstance(operation, Operation)
        assert operation.payload_object is not None
        assert api.services.objects.get(operation.payload_object) == batch(run_id, 1, rows=20)
        assert api.store.journal.payload(operation) is None


def test_a_payload_that_nothing_names_is_removed(module_store: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, inline_payload_bytes=100), module_store) as api:
        run_id = api.run()
        ok(api.forward_backward(batch(run_id, 1, rows=20)))
        refused(api.forward_backward(batch(run_id, 1, rows=30)))
        refused(api.forward_backward(batch(run_id, 2, rows=20, tokens=[9999])))
        refused(api.forward_backward(batch(run_id, 2, rows=20)))
        kept = [info.key for info in api.services.objects.list("payloads")]
        assert [key.rpartition("/")[2].partition("-")[0] for key in kept] == ["1"]


def test_a_save_that_is_repeated_is_no_duplicate_of_itself(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    save = {"model_id": run_id, "seq_id": 1, "path": "mine"}
    first = ok(api.post("save_weights", save))
    trainer.complete_all(run_id)
    write_checkpoint(api, run_id, "weights", "mine")
    assert ok(api.post("save_weights", save)) == first
    assert "exists already" in refused(api.post("save_weights", save | {"seq_id": 2}))
    ok(api.post("save_weights", save | {"seq_id": 3, "overwrite": True}))


def test_a_sampler_that_is_asked_for_again_is_the_same(api: Api, trainer: Trainer) -> None:
    """The SDK gives each try of one request another sampling_session_seq_id."""
    run_id = api.run()
    save = {"model_id": run_id, "seq_id": 1, "sampling_session_seq_id": 0}
    first = ok(api.post("save_weights_for_sampler", save))
    assert ok(api.post("save_weights_for_sampler", save | {"sampling_session_seq_id": 1})) == first
    named = {"model_id": run_id, "seq_id": 1, "path": "mine"}
    assert "was used by another request" in refused(api.post("save_weights_for_sampler", named))


def test_a_step_key_goes_into_the_checkpoint(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    save = {"model_id": run_id, "seq_id": 1, "path": "mine"}
    ok(api.post("save_weights_for_sampler", save, **{"X-Tuft-Step-Key": "update-3"}))
    operation = trainer.pending(run_id)[1]
    assert isinstance(operation, Operation)
    assert isinstance(operation.body, SaveWeightsForSampler)
    assert operation.body.step_key == "update-3"


def test_ephemeral_samplers_of_two_processes_do_not_meet(api: Api, trainer: Trainer) -> None:
    """Each process that attaches counts its sampling sessions from 0."""
    run_id = api.run()
    save = {"model_id": run_id, "seq_id": 1, "sampling_session_seq_id": 0}
    ok(api.post("save_weights_for_sampler", save))
    epoch = ok(api.post(f"tuft/runs/{run_id}/attach", {}))["writer_epoch"]
    headers = {"X-Tuft-Writer-Epoch": str(epoch)}
    ok(api.post("save_weights_for_sampler", save | {"seq_id": 2}, **headers))
    ids = [
        entry.body.sampler_id
        for entry in trainer.pending(run_id)
        if isinstance(entry, Operation) and isinstance(entry.body, SaveWeightsForSampler)
    ]
    assert len(set(ids)) == 2


def test_the_sdk_after_a_refusal_that_reached_nobody(api: Api, trainer: Trainer) -> None:
    """A body that is too large is refused before its seq_id is known: the next one proves it."""
    run_id = api.run()
    limit = api.services.config.limits.max_request_bytes
    refused(api.forward_backward(b"\x00" * (limit + 1)), 413)
    ok(api.forward_backward(batch(run_id, 2), **SDK))
    missing = trainer.pending(run_id)[1]
    assert isinstance(missing, Tombstone)
    assert missing.poisons


def test_too_many_runs(valkey_url: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trainer = config.trainer.model_copy(update={"max_training_runs": 1})
    with serving(config.model_copy(update={"trainer": trainer}), valkey_url) as api:
        session_id = api.session()
        ok(api.post("create_model", create_model_body(session_id, 0)))
        ok(api.post("create_model", create_model_body(session_id, 0)))
        message = refused(api.post("create_model", create_model_body(session_id, 1)))
        assert "max_training_runs" in message
