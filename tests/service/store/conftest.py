"""A store on a real, empty Valkey."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.leases import take_lease
from tests.service.store.records import MODEL, create_run
from tuft.store import Lease, Store, connect


@pytest.fixture
def store(valkey_url: str) -> Iterator[Store]:
    client = connect(valkey_url)
    yield Store(client)
    client.close()


@pytest.fixture
def lease(store: Store) -> Lease:
    """A trainer's lease, and a run whose creation is accepted but not done."""
    create_run(store)
    return take_lease(store, f"trainer:{MODEL}")
