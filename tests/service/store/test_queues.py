from __future__ import annotations

from tuft.store import Store


def test_who_waits_is_what_was_published_last(store: Store) -> None:
    store.queues.publish("m", {"run-1": "all slots are taken", "run-2": "all slots are taken"})
    store.queues.publish("other", {"run-3": "why"})
    assert store.queues.reason("m", "run-1") == "all slots are taken"
    assert store.queues.reason("m", "run-3") is None
    store.queues.publish("m", {"run-2": "still"})
    assert store.queues.reason("m", "run-1") is None
    assert store.queues.reason("m", "run-2") == "still"
    store.queues.publish("m", {})
    assert store.queues.reason("m", "run-2") is None
    assert store.queues.reason("other", "run-3") == "why"
