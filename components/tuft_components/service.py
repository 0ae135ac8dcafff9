"""How a step reaches the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tuft_sdk
from tuft_components.processes import import_clients

_PATIENCE_S = 300.0
_shared: ContextVar[tuft_sdk.TuftClient | None] = ContextVar("shared_client", default=None)


@contextmanager
def connect(timeout_s: float, *, tokenizers: bool = False) -> Iterator[tuft_sdk.TuftClient]:
    """A client of the service that the environment names, once the service is ready.

    Waits for it for five minutes, or `timeout_s` where that is less: while it starts, or is
    away, its clients would wait too, but each for another time.

    Raises:
        tuft_sdk.ConfigurationError: a variable is missing. tuft_sdk.Transient: it is not ready.
    """
    shared = _shared.get()
    if shared is not None:
        shared.wait_until_ready()
        yield shared
        return
    with tuft_sdk.connect(deadline_s=min(timeout_s, _PATIENCE_S)) as client:
        client.wait_until_ready()
        import_clients(tokenizers=tokenizers)
        yield client


@contextmanager
def shared(client: tuft_sdk.TuftClient) -> Iterator[None]:
    """Within the block, and in its context in other threads, `connect` gives this client.

    A step that executes others many times would else begin a session and load a tokenizer for
    each of them.
    """
    token = _shared.set(client)
    try:
        yield
    finally:
        _shared.reset(token)
