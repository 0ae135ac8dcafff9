"""Keys and ownership: on every id and every path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import (
    ALICE,
    MODEL,
    Api,
    Trainer,
    base_sampler,
    batch,
    config_of,
    create_model_body,
    ok,
    refused,
    sample_body,
    serving,
)
from tuft.api.deps import Keys
from tuft.config import ApiKeyConfig
from tuft.errors import Unauthenticated


@pytest.mark.parametrize("key", ["tml-unknown", "", "Bearer x", ALICE + "x", ALICE[:-1]])
def test_a_wrong_key(api: Api, key: str) -> None:
    for path in ("client/config", "create_session", "retrieve_future", "asample"):
        refused(api.post(path, {}, **{"X-API-Key": key}), 401)


def test_a_missing_key(api: Api) -> None:
    del api.http.headers["X-API-Key"]
    try:
        assert "X-API-Key" in refused(api.post("client/config", {}), 401)
        refused(api.get("get_server_capabilities"), 401)
        assert api.http.get("/healthz").status_code == 503
    finally:
        api.http.headers["X-API-Key"] = ALICE


def test_without_keys_any_tml_key_is_the_local_tenant() -> None:
    keys = Keys([])
    assert keys.tenant_of("tml-a") == keys.tenant_of("tml-b") == "local"
    for wrong in (None, "", "sk-1", "eyJhbGciOi"):
        with pytest.raises(Unauthenticated):
            keys.tenant_of(wrong)


def test_two_keys_may_be_one_tenants() -> None:
    keys = Keys([ApiKeyConfig(key=f"tml-{name}-key", tenant="t") for name in "ab"])
    assert keys.tenant_of("tml-a-key") == keys.tenant_of("tml-b-key") == "t"


def test_a_local_tenant_end_to_end(module_store: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, keys=False), module_store) as api:
        session_id = api.session(**{"X-API-Key": "tml-one"})
        api.get(f"sessions/{session_id}", **{"X-API-Key": "tml-two"}).raise_for_status()


def test_another_tenants_run_does_not_exist(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    bob = api.bob()
    place = {"model_id": run_id, "seq_id": 1}
    refused(api.forward_backward(batch(run_id, 1), **bob), 404)
    refused(api.forward_backward(batch(run_id, 1, tokens=[9999]), **bob), 404)
    for path, body in (
        ("optim_step", place | {"adam_params": {}}),
        ("save_weights", place | {"path": "a"}),
        ("save_weights_for_sampler", place | {"path": "a"}),
        ("load_weights", place | {"path": f"tinker://{run_id}/weights/a", "optimizer": False}),
        ("save_weights_external", place | {"path": "a"}),
        ("get_info", {"model_id": run_id}),
        (f"tuft/runs/{run_id}/attach", {}),
        ("tuft/steps/begin", {"scope": run_id, "step_key": "k"}),
        ("tuft/steps/finish", {"scope": run_id, "step_key": "k", "result": "r"}),
    ):
        assert "there is no training run" in refused(api.post(path, body, **bob), 404)
    for path in (f"training_runs/{run_id}", f"training_runs/{run_id}/checkpoints"):
        refused(api.get(path, **bob), 404)
    # Nothing of it burnt the owner's seq_id.
    ok(api.forward_backward(batch(run_id, 1)))
    assert len(trainer.pending(run_id)) == 2


def test_what_is_anothers_looks_like_what_is_not_there(api: Api) -> None:
    run_id = api.run()
    missing = refused(api.get("training_runs/none"), 404)
    anothers = refused(api.get(f"training_runs/{run_id}", **api.bob()), 404)
    assert missing.replace("none", run_id) == anothers


def test_another_tenants_session_does_not_exist(api: Api) -> None:
    session_id = api.session()
    bob = api.bob()
    sampling = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": MODEL}
    load = {"session_id": session_id, "model_seq_id": 0, "path": "tinker://r/weights/a"}
    for path, body in (
        ("session_heartbeat", {"session_id": session_id}),
        (f"sessions/{session_id}/finish", {"reason": {"type": "success"}}),
        ("create_model", create_model_body(session_id)),
        ("load_weights", load | {"optimizer": False}),
        ("create_sampling_session", sampling),
    ):
        assert "there is no session" in refused(api.post(path, body, **bob), 404)
    refused(api.get(f"sessions/{session_id}", **bob), 404)
    body = {"project_id": "p"}
    refused(api.http.put(f"/api/v1/sessions/{session_id}/project", json=body, headers=bob), 404)


def test_another_tenants_sampler_does_not_exist(api: Api) -> None:
    sampler_id = base_sampler(api)
    refused(api.get(f"samplers/{sampler_id}", **api.bob()), 404)
    refused(api.post("asample", sample_body(sampler_id), **api.bob()), 404)


def test_another_tenants_checkpoint_does_not_exist_until_it_is_public(api: Api) -> None:
    run_id = api.run()
    path = write_checkpoint(api, run_id, "weights", "mine").manifest.path
    one = f"/api/v1/training_runs/{run_id}/checkpoints/weights/mine"
    bob = api.bob()
    uses: list[tuple[str, dict[str, Any]]] = [
        ("weights_info", {"tinker_path": path}),
        (
            "create_sampling_session",
            {
                "session_id": api.session(**bob),
                "sampling_session_seq_id": 0,
                "model_path": path,
            },
        ),
        (
            "load_weights",
            {
                "session_id": api.session(**bob),
                "model_seq_id": 0,
                "path": path,
                "optimizer": True,
            },
        ),
    ]
    for endpoint, body in uses:
        refused(api.post(endpoint, body, **bob), 404)
    assert api.http.post(f"{one}/publish").status_code == 204
    for endpoint, body in uses:
        ok(api.post(endpoint, body, **bob))
    # Public is for reading.
    refused(api.http.delete(one, headers=bob), 404)
    refused(api.http.delete(f"{one}/publish", headers=bob), 404)
    refused(api.http.put(f"{one}/ttl", json={"ttl_seconds": None}, headers=bob), 404)
    assert api.http.delete(f"{one}/publish").status_code == 204
    refused(api.post("weights_info", {"tinker_path": path}, **bob), 404)


def test_lists_are_the_callers_own(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    write_checkpoint(fresh_api, run_id, "weights", "mine")
    bob = fresh_api.bob()
    assert ok(fresh_api.get("training_runs", **bob))["training_runs"] == []
    assert ok(fresh_api.get("checkpoints", **bob))["checkpoints"] == []
    assert ok(fresh_api.get("sessions", **bob))["sessions"] == []
    assert len(ok(fresh_api.get("training_runs"))["training_runs"]) == 1
    assert len(ok(fresh_api.get("checkpoints"))["checkpoints"]) == 1


def test_the_ledgers_of_two_tenants_are_two(api: Api) -> None:
    body = {"scope": "tenant", "step_key": "start", "result": "alice's"}
    ok(api.post("tuft/steps/begin", {"scope": "tenant", "step_key": "start"}))
    ok(api.post("tuft/steps/finish", body))
    refused(api.post("tuft/steps/finish", body, **api.bob()), 404)
    refused(api.post("tuft/steps/begin", {"scope": "tenant:alice", "step_key": "start"}), 404)
