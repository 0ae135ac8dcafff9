"""The index of checkpoints."""

from __future__ import annotations

import pytest

from tests.service.store.records import RUN, TENANT, checkpoint
from tuft.contracts.records import CheckpointSettings
from tuft.errors import NotFound
from tuft.store import Store, connect


def test_put_get_replace_remove(store: Store, valkey_url: str) -> None:
    record = checkpoint("a", 1.0)
    store.checkpoints.put(record)
    assert store.checkpoints.get(RUN, "weights", "a") == record
    public = record.model_copy(update={"settings": CheckpointSettings(public=True)})
    store.checkpoints.put(public)
    assert store.checkpoints.list_run(RUN) == [public]
    store.checkpoints.remove(RUN, "weights", "a")
    store.checkpoints.remove(RUN, "weights", "a")
    with pytest.raises(NotFound, match=f"tinker://{RUN}/weights/a"):
        store.checkpoints.get(RUN, "weights", "a")
    assert connect(valkey_url).keys("tuft:*checkpoint*") == []


def test_lists_are_newest_first(store: Store) -> None:
    first = checkpoint("a", 1.0)
    second = checkpoint("a", 2.0, kind="sampler_weights")
    third = checkpoint("b", 3.0, run_id="session-2:train:0")
    for record in (second, third, first):
        store.checkpoints.put(record)
    assert store.checkpoints.list_run(RUN) == [second, first]
    assert store.checkpoints.list_tenant(TENANT, 2, 0) == ([third, second], 3)
    assert store.checkpoints.list_tenant(TENANT, 2, 2) == ([first], 3)
    assert store.checkpoints.list_tenant(TENANT, 0, 0) == ([], 3)
    assert store.checkpoints.list_tenant("other", 5, 0) == ([], 0)
