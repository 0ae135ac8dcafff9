"""Events: waiting, waking, and readers that come too late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.store.records import MODEL, RUN, accept, create_run, operation
from tuft.store import Lease, Store, connect, events, journal


def test_a_reader_gets_what_came_since_and_each_run_once(store: Store, lease: Lease) -> None:
    seen = store.events.latest(f"work:{MODEL}")
    create_run(store, "session-1:train:1")
    for seq in (1, 2, 3):
        accept(store, operation(seq))
    newest, runs = store.events.work(MODEL, seen, 0)
    assert runs == ["session-1:train:1", RUN]
    assert newest == store.events.latest(f"work:{MODEL}")
    assert store.events.work(MODEL, newest, 0) == (newest, [])
    assert store.events.work(MODEL, newest, 20) == (newest, [])


def test_nothing_has_happened_yet(store: Store) -> None:
    assert store.events.latest("results") == "0-0"
    assert store.events.results("0-0", 0) == ("0-0", [])
    assert store.events.work("no model", "0-0", 10) == ("0-0", [])


def test_a_waiting_reader_is_woken(store: Store, lease: Lease) -> None:
    seen = store.events.latest(f"work:{MODEL}")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.events.work, MODEL, seen, 10_000)
        accept(store, operation(1))
        assert waiting.result(5)[1] == [RUN]


def test_streams_are_bounded_and_a_late_reader_looks_everywhere(
    store: Store, lease: Lease, monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    monkeypatch.setattr(journal, "STREAM_LENGTH", 100)
    monkeypatch.setattr(events, "_BATCH", 50)
    beginning = store.events.latest(f"work:{MODEL}")
    create_run(store, "session-1:train:1")  # its event will be dropped
    for seq in range(1, 601):
        accept(store, operation(seq))
    assert connect(valkey_url).xlen(f"tuft:work:{MODEL}") < 300
    assert store.events.work(MODEL, "0-0", 0)[1] == [RUN, "session-1:train:1"]
    newest, runs = store.events.work(MODEL, beginning, 0)
    assert runs == [RUN, "session-1:train:1"]
    accept(store, operation(601))
    assert store.events.work(MODEL, newest, 0)[1] == [RUN]
