"""Sampler records."""

from __future__ import annotations

import pytest

from tests.service.store.records import sampler
from tuft.errors import Conflict, NotFound
from tuft.store import Store


def test_creation_may_be_repeated_but_not_with_another_request(store: Store) -> None:
    store.samplers.create(sampler(), "digest")
    store.samplers.create(sampler(created_at=99.0), "digest")
    assert store.samplers.get(sampler().sampler_id) == sampler()
    with pytest.raises(Conflict, match="sampling_session_seq_id"):
        store.samplers.create(sampler(model_path="tinker://x"), "another digest")
    with pytest.raises(NotFound):
        store.samplers.get("session-1:sample:1")
