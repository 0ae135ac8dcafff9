"""Sessions, telemetry and the client's configuration."""

from __future__ import annotations

from tests.service.api.harness import MODEL, Api, create_model_body, ok, refused


def test_the_life_of_a_session(api: Api) -> None:
    body = {
        "tags": ["a"],
        "user_metadata": {"k": "v", "n": 2},
        "sdk_version": "0.38.0",
        "display_name": "mine",
        "type": "create_session",
    }
    session_id = ok(api.post("create_session", body))["session_id"]
    assert "/" not in session_id
    heartbeat = {"session_id": session_id, "type": "session_heartbeat"}
    assert ok(api.post("session_heartbeat", heartbeat)) == {"type": "session_heartbeat"}
    run_id = api.run(session_id)
    sampling = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler_id = ok(api.post("create_sampling_session", sampling))["sampling_session_id"]
    assert ok(api.get(f"sessions/{session_id}?access_scope=owned")) == {
        "training_run_ids": [run_id],
        "sampler_ids": [sampler_id],
        "user_metadata": {"k": "v", "n": "2"},
        "display_name": "mine",
    }


def test_finishing_a_session(api: Api) -> None:
    session_id = api.session()
    for reason in ("errored", "success"):
        body = {"reason": {"type": reason}, "detail": None}
        assert api.post(f"sessions/{session_id}/finish", body).status_code == 204
    assert api.store.sessions.finished(session_id) == "errored"
    wrong = {"reason": {"type": "odd"}, "detail": None}
    assert "reason.type" in refused(api.post(f"sessions/{session_id}/finish", wrong))


def test_runs_outlive_their_session(api: Api) -> None:
    """Another process may have attached to them."""
    session_id = api.session()
    run_id = api.run(session_id)
    api.post(f"sessions/{session_id}/finish", {"reason": {"type": "success"}})
    ok(api.post("optim_step", {"model_id": run_id, "seq_id": 1, "adam_params": {}}))


def test_pages_of_sessions_newest_first(fresh_api: Api) -> None:
    made = [fresh_api.session() for _ in range(3)]
    page = ok(fresh_api.get("sessions?limit=2&offset=0&access_scope=owned"))
    assert len(page["sessions"]) == 2
    assert set(page["sessions"]) < set(made)
    assert "limit" in refused(fresh_api.get("sessions?limit=0"))
    for path in ("sessions", "training_runs", "checkpoints"):
        assert "offset" in refused(fresh_api.get(f"{path}?offset={2**63}"))


def test_an_unknown_session(api: Api) -> None:
    refused(api.post("session_heartbeat", {"session_id": "none"}), 404)
    refused(api.post("create_model", create_model_body("none")), 404)
    refused(api.get("sessions/none"), 404)


def test_telemetry_is_accepted(api: Api) -> None:
    body = {"events": [{"event": "SESSION_START"}], "session_id": "sessionless-1"}
    assert ok(api.post("telemetry", body)) == {"status": "accepted"}


def test_the_client_configuration(api: Api) -> None:
    config = ok(api.post("client/config", {"sdk_version": "0.38.0"}))
    limits = api.services.config.limits
    assert config["parallel_fwdbwd_chunks"] is False
    assert config["fwdbwd_max_chunk_len"] == limits.max_datums
    assert config["fwdbwd_max_chunk_bytes_count"] < limits.max_request_bytes
    assert "refresh_interval_sec" in ok(api.post("client/dynamic_config", {"sdk_version": "x"}))


def test_what_is_not_served_says_so(api: Api) -> None:
    for path in ("copy_weights", "retrieve_futures", "join_sampling_session", "forward"):
        assert f"/api/v1/{path} is not served" in refused(api.post(path, {}), 404)


def test_metadata_has_a_limit(api: Api) -> None:
    body = create_model_body(api.session()) | {"user_metadata": {"k": "x" * 70_000}}
    assert "user_metadata: has 70" in refused(api.post("create_model", body))


def test_a_message_does_not_grow_with_the_body(api: Api) -> None:
    body = create_model_body(api.session()) | {f"field-{n}-{'x' * 1000}": 1 for n in range(1000)}
    assert len(refused(api.post("create_model", body))) <= 2000
