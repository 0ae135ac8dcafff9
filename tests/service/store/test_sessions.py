"""Sessions: records, heartbeats, lists, and forgetting the old ones."""

from __future__ import annotations

import time

import pytest

from tests.service.store.records import TENANT, create_run, run, sampler, session
from tuft.errors import Conflict, NotFound, QueueFull
from tuft.store import Store, connect, sessions


def test_a_session_comes_back_as_it_was(store: Store) -> None:
    record = session(tags=["a"], user_metadata={"k": "v"}, sdk_version="0.38.0")
    store.sessions.create(record)
    store.sessions.create(record)
    assert store.sessions.get("session-1") == record
    with pytest.raises(Conflict):
        store.sessions.create(session(tags=["b"]))


def test_unknown_sessions(store: Store) -> None:
    for ask in (
        lambda: store.sessions.get("nobody"),
        lambda: store.sessions.heartbeat("nobody"),
        lambda: store.sessions.finish("nobody", "success"),
        lambda: store.sessions.set_project("nobody", "p"),
    ):
        with pytest.raises(NotFound, match="no session nobody"):
            ask()
    assert store.sessions.run_ids("nobody") == []
    assert store.sessions.sampler_ids("nobody") == []


def test_the_first_reason_to_finish_stays(store: Store) -> None:
    store.sessions.create(session())
    assert store.sessions.finished("session-1") is None
    store.sessions.finish("session-1", "errored")
    store.sessions.finish("session-1", "success")
    assert store.sessions.finished("session-1") == "errored"


def test_a_session_moves_to_a_project(store: Store) -> None:
    store.sessions.create(session(project_id="first"))
    store.sessions.set_project("session-1", "second")
    assert store.sessions.get("session-1") == session(project_id="second")


def test_lists_are_newest_first_paged_and_of_one_tenant(store: Store) -> None:
    for number in range(5):
        store.sessions.create(session(f"s{number}", created_at=float(number)))
    store.sessions.create(session("other", tenant="other"))
    assert store.sessions.list(TENANT, 2, 1) == ["s3", "s2"]
    assert store.sessions.list(TENANT, 2, 4) == ["s0"]
    assert store.sessions.list(TENANT, 0, 0) == []


def test_a_session_knows_its_runs_and_samplers_oldest_first(store: Store) -> None:
    store.sessions.create(session())
    create_run(store)
    create_run(store, "session-1:train:1")
    store.samplers.create(sampler("session-1:sample:1", created_at=9.0), "d")
    store.samplers.create(sampler("session-1:sample:0", created_at=8.0), "d")
    assert store.sessions.run_ids("session-1") == ["session-1:train:0", "session-1:train:1"]
    assert store.sessions.sampler_ids("session-1") == ["session-1:sample:0", "session-1:sample:1"]


def test_quiet_sessions_make_room_and_active_ones_do_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    for number in range(3):
        store.sessions.create(session(f"s{number}"))
    with pytest.raises(QueueFull):
        store.sessions.create(session("s3"))

    # An hour and a bit later: s1 was heard of, the others were not.
    later = time.time() + 4000
    monkeypatch.setattr(time, "time", lambda: later)
    store.sessions.heartbeat("s1")
    store.samplers.create(sampler(session_id="s0"), "d")
    store.sessions.create(session("s3"))
    store.sessions.create(session("s4"))
    assert sorted(store.sessions.list(TENANT, 10, 0)) == ["s1", "s3", "s4"]
    with pytest.raises(NotFound):
        store.sessions.get("s0")
    with pytest.raises(NotFound):
        store.samplers.get(sampler().sampler_id)


def test_what_is_forgotten_leaves_nothing_behind_but_its_runs(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.sessions.create(session())
    create_run(store)
    store.samplers.create(sampler(), "d")
    a_month_later = time.time() + 31 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: a_month_later)
    store.sessions.create(session("session-2"))
    assert store.sessions.list(TENANT, 10, 0) == ["session-2"]
    assert connect(valkey_url).keys("tuft:sess*") == [b"tuft:session:session-2"]
    assert store.runs.get("session-1:train:0") == run()


def test_a_heartbeat_does_not_bring_a_forgotten_session_back(store: Store) -> None:
    store.sessions.create(session())
    before = time.time()
    store.sessions.heartbeat("session-1")
    assert store.sessions.get("session-1").created_at < before
