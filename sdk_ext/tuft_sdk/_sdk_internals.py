"""The only module that touches private parts of the Tinker SDK (0.38).

The SDK numbers a client's requests from 0, and a client for a run that another process made
would collide with what is there already. It has no public way to go on at a number: two
counters are set here. `tests/sdk_ext/test_sdk_internals.py` fails if a new SDK changes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import tinker
from tinker import types
from tinker.lib.public_interfaces.training_client import TrainingClient, fetch_training_info

from tuft_sdk.errors import SdkError


def training_client_for(
    service: tinker.ServiceClient, run_id: str, next_seq_id: int
) -> TrainingClient:
    """A TrainingClient for the existing run `run_id` whose next request is `next_seq_id`."""
    holder = service.holder
    info = holder.run_coroutine_threadsafe(fetch_training_info(holder, run_id)).result()
    number = run_id.rsplit(":", 1)[-1]
    client = TrainingClient(
        holder,
        model_seq_id=int(number) if number.isdecimal() else 0,
        model_id=run_id,
        info=info,
    )
    continue_at(client, next_seq_id)
    return client


def continue_at(client: TrainingClient, next_seq_id: int) -> None:
    """Set the client's counters so that its next request goes out as `next_seq_id`.

    On the wire a request is `seq_id` = counter + 1.

    Raises:
        SdkError: this version of the SDK does not count as 0.38 does.
    """
    if next_seq_id < 1:
        raise ValueError(f"a training request's seq_id is at least 1, not {next_seq_id}")
    for name in ("_request_id_counter", "_turn_counter"):
        if not isinstance(getattr(client, name, None), int):
            raise SdkError(
                f"tinker {tinker.__version__} has no TrainingClient.{name}: "
                "tuft_sdk can't attach to a run with it; install tinker 0.38"
            )
    client._request_id_counter = next_seq_id - 1
    client._turn_counter = next_seq_id - 1


def set_header(service: tinker.ServiceClient, name: str, value: str) -> None:
    """Send this header with all further requests of the client.

    The SDK's HTTP clients look into one dict with every request.

    Raises:
        SdkError: this version of the SDK keeps its headers elsewhere.
    """
    headers = getattr(service.holder, "_constructor_kwargs", {}).get("default_headers")
    if not isinstance(headers, dict):
        raise SdkError(
            f"tinker {tinker.__version__} has no InternalClientHolder._constructor_kwargs with "
            "default_headers: install tinker 0.38"
        )
    headers[name] = value


def chunks_of(client: TrainingClient, data: Sequence[types.Datum]) -> list[list[types.Datum]]:
    """How the SDK would split `data`: each chunk is one request with one seq_id."""
    return [list(chunk.data) for chunk in client._chunked_requests_generator(list(data))]
