"""Futures: unknown, expired, pending and done ones, and whose they are."""

from __future__ import annotations

import pytest

from tests.service.store.records import (
    RUN,
    accept,
    complete_up_to,
    done,
    operation,
    pending,
    sample,
    sampler,
    tombstone,
)
from tests.waiting import wait_until
from tuft.errors import Expired, NotFound
from tuft.store import Lease, Store


@pytest.mark.parametrize(
    "request_id", ["", ":", ":1", RUN, f"{RUN}:", f"{RUN}:x", f"{RUN}:-1", f"{RUN}:٣", "no:1"]
)
def test_unknown_requests(store: Store, lease: Lease, request_id: str) -> None:
    with pytest.raises(NotFound):
        store.futures.get(request_id)


def test_a_seq_id_that_was_not_reached_is_unknown_and_not_expired(
    store: Store, lease: Lease
) -> None:
    with pytest.raises(NotFound):
        store.futures.get(f"{RUN}:5")


def test_a_seq_id_behind_the_cursor_has_expired(store: Store, lease: Lease) -> None:
    complete_up_to(store, lease, 0)
    accept(store, operation(1))
    store.journal.complete(lease, operation(1), done(operation(1)), result_ttl_s=0.001)
    wait_until(lambda: _said(store, f"{RUN}:1") is Expired, 5)
    assert _said(store, f"{RUN}:1", "acme") is Expired
    assert _said(store, f"{RUN}:1", "other") is NotFound
    assert _said(store, f"{RUN}:0", "acme") is None


def test_sample_results_expire_too(store: Store) -> None:
    store.samplers.create(sampler(), "d")
    op = sample(10**18)
    store.samples.accept(op, pending(op.request_id), max_pending=9)
    (claimed,) = store.samples.claim(op.base_model, "c", 1, 0)
    store.samples.complete(claimed, done(op), result_ttl_s=0.001)
    wait_until(lambda: _said(store, op.request_id) is Expired, 5)
    assert _said(store, op.request_id, "other") is NotFound


def test_another_tenants_future_looks_like_none(store: Store, lease: Lease) -> None:
    assert _said(store, f"{RUN}:0", "other") is NotFound
    assert _said(store, f"{RUN}:0", "acme") is None


def test_a_refused_request_has_no_future(store: Store, lease: Lease) -> None:
    store.journal.refuse(tombstone(1), writer_epoch=0)
    assert _said(store, f"{RUN}:1") is NotFound


def _said(store: Store, request_id: str, tenant: str | None = None) -> type[Exception] | None:
    try:
        store.futures.get(request_id, tenant)
    except (NotFound, Expired) as error:
        return type(error)
    return None
