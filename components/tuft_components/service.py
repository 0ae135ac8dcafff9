"""How a step reaches the service."""

from __future__ import annotations

import tuft_sdk
from tuft_components.processes import import_clients

_PATIENCE_S = 300.0


def connect(timeout_s: float, *, tokenizers: bool = False) -> tuft_sdk.TuftClient:
    """A client of the service that the environment names, once the service is ready.

    Waits for it for five minutes, or `timeout_s` where that is less: while it starts, or is
    away, its clients would wait too, but each for another time.

    Raises:
        tuft_sdk.ConfigurationError: a variable is missing. tuft_sdk.Transient: it is not ready.
    """
    client = tuft_sdk.connect(deadline_s=min(timeout_s, _PATIENCE_S))
    client.wait_until_ready()
    import_clients(tokenizers=tokenizers)
    return client
