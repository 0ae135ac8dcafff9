"""Fails if a new Tinker SDK changes the private parts that `_sdk_internals` relies on."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import tinker
from tinker import types
from tinker.lib.internal_client_holder import InternalClientHolder
from tinker.lib.public_interfaces import training_client
from tinker.lib.public_interfaces.training_client import TrainingClient, fetch_training_info

from tuft_sdk import SdkError
from tuft_sdk._sdk_internals import chunks_of, continue_at, set_header


def _client(**config: Any) -> TrainingClient:
    """The SDK's own class; only its holder, which would connect, is missing."""
    limits = {"fwdbwd_max_chunk_len": 1024, "fwdbwd_max_chunk_bytes_count": 5_000_000}
    holder: Any = SimpleNamespace(_client_config=SimpleNamespace(**{**limits, **config}))
    info = types.GetInfoResponse(
        model_id="s:train:0",
        model_data=types.ModelData(arch="a", model_name="m", tokenizer_id="m"),
    )
    return TrainingClient(holder, model_seq_id=0, model_id="s:train:0", info=info)


def _datum(length: int) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints([1] * length),
        loss_fn_inputs={"target_tokens": types.TensorData([1] * length, "int64", [length])},
    )


def test_a_new_client_counts_from_zero() -> None:
    client = _client()
    assert client._request_id_counter == 0
    assert client._turn_counter == 0
    assert client._get_request_id() == 0


def test_continue_at_sets_the_next_request() -> None:
    client = _client()
    continue_at(client, 7)
    assert client._get_request_id() + 1 == 7  # the wire's seq_id is one more
    assert client._turn_counter + 1 == 7


def test_requests_are_numbered_and_ordered_by_the_two_counters() -> None:
    source = inspect.getsource(training_client)
    assert "seq_id=request_id + 1" in source
    assert "self._turn_counter < min_turn" in source
    assert "self._request_id_counter += count" in source


def test_get_info_is_fetched_by_the_function_that_attaching_uses() -> None:
    assert list(inspect.signature(fetch_training_info).parameters) == ["holder", "model_id"]


def test_headers_go_with_every_call_of_a_service_client() -> None:
    parameters = inspect.signature(tinker.ServiceClient.__init__).parameters
    assert "default_headers_overrides" in parameters


def test_another_way_of_counting_is_refused() -> None:
    client = _client()
    del client._turn_counter
    with pytest.raises(SdkError, match="_turn_counter"):
        continue_at(client, 2)


def test_seq_ids_begin_at_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        continue_at(_client(), 0)


def test_chunks_are_those_that_the_sdk_would_send() -> None:
    data = [_datum(3) for _ in range(5)]
    pieces = chunks_of(_client(fwdbwd_max_chunk_len=2), data)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert [datum for piece in pieces for datum in piece] == data


def test_a_header_is_one_of_a_holder_that_all_its_clients_look_into() -> None:
    """That it is really sent: tests/e2e/test_train_loop.py, by the step keys of its policies."""
    service: Any = SimpleNamespace(
        holder=SimpleNamespace(_constructor_kwargs={"default_headers": {"a": "b"}})
    )
    set_header(service, "X-Step", "update/1")
    assert service.holder._constructor_kwargs["default_headers"] == {"a": "b", "X-Step": "update/1"}
    source = inspect.getsource(InternalClientHolder.__init__)
    assert '"default_headers": _get_default_headers() | self._default_headers_overrides' in source
    with pytest.raises(SdkError, match=r"install tinker 0\.38"):
        set_header(SimpleNamespace(holder=SimpleNamespace()), "a", "b")  # type: ignore[arg-type]
