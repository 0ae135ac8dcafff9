"""Encoding of results, read back with the Tinker SDK's own decoders."""

from __future__ import annotations

import numpy as np
import pytest
from tinker.proto.response_conv import (
    deserialize_forward_backward_output,
    deserialize_sample_response,
)

from tuft.contracts.wire import (
    ForwardBackwardResult,
    SampledSequence,
    SampleResult,
    encode_forward_backward_output,
    encode_sample_response,
)


def f32(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [(3,)],
        [(3,), (1,), (700,)],
        [(2, 4), (5, 4)],
        # Ragged: one record each time that the trailing shape changes.
        [(3,), (2, 4), (1, 4), (2, 5), (3,)],
        [(0,), (2,)],
        [(0, 3), (2, 3)],
    ],
)
def test_forward_backward_output(shapes: list[tuple[int, ...]]) -> None:
    logprobs = [f32(*shape) for shape in shapes]
    metrics = {"loss:sum": -12.5, "tokens:sum": 7.0}
    output = deserialize_forward_backward_output(
        encode_forward_backward_output(ForwardBackwardResult(logprobs, metrics))
    )
    assert output.metrics == metrics
    assert output.loss_fn_output_type == "ArrayRecord"
    assert len(output.loss_fn_outputs) == len(shapes)
    for record, expected in zip(output.loss_fn_outputs, logprobs, strict=True):
        assert set(record) == {"logprobs"}
        found = record["logprobs"]
        assert found.dtype == "float32"
        assert found.shape == list(expected.shape)
        np.testing.assert_array_equal(np.asarray(found.data), expected.ravel())


def test_arrays_that_are_not_contiguous_or_float32() -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    result = ForwardBackwardResult([values.T.astype(np.float32), values[:, ::2]])  # type: ignore[list-item]
    first, second = deserialize_forward_backward_output(
        encode_forward_backward_output(result)
    ).loss_fn_outputs
    assert first["logprobs"].shape == [4, 3]
    assert np.asarray(first["logprobs"].data).tolist() == values.T.ravel().tolist()
    assert np.asarray(second["logprobs"].data).tolist() == values[:, ::2].ravel().tolist()


def test_no_metrics() -> None:
    output = deserialize_forward_backward_output(
        encode_forward_backward_output(ForwardBackwardResult([f32(2)]))
    )
    assert output.metrics == {}


def sequence(tokens: list[int], reason: str, *, k: int = 0) -> SampledSequence:
    count = len(tokens)
    ids = np.arange(count * k, dtype=np.int32).reshape(count, k)
    return SampledSequence(
        tokens=np.array(tokens, dtype=np.int32),
        logprobs=f32(count),
        stop_reason=reason,
        topk=(ids, f32(count, k)) if k else None,
    )


def test_sample_response() -> None:
    first, second = sequence([5, 2**31 - 1, 0], "length", k=2), sequence([7], "stop")
    response = deserialize_sample_response(
        encode_sample_response(SampleResult([first, second], prompt_cache_hit_tokens=11))
    )
    assert [s.stop_reason for s in response.sequences] == ["length", "stop"]
    assert [s.tokens for s in response.sequences] == [[5, 2**31 - 1, 0], [7]]
    for found, expected in zip(response.sequences, (first, second), strict=True):
        assert found.logprobs is not None
        np.testing.assert_array_equal(
            np.asarray(found.logprobs, dtype=np.float32), expected.logprobs
        )
    assert first.topk is not None
    topk = response.sequences[0].topk_logprobs
    assert topk is not None
    for position, ids, values in zip(topk, *first.topk, strict=True):
        assert position is not None
        assert [token for token, _ in position] == ids.tolist()
        assert [value for _, value in position] == values.tolist()
    assert response.sequences[1].topk_logprobs is None
    assert response.prompt_logprobs is None
    assert response.topk_prompt_logprobs is None
    assert response.prompt_cache_hit_tokens == 11


def test_prompt_logprobs() -> None:
    prompt = np.array([np.nan, -0.5, -1.5], dtype=np.float32)
    ids = np.array([[0, 0], [3, 4], [5, 6]], dtype=np.int32)
    values = np.array([[-99999, -99999], [-0.1, -2], [-0.2, -3]], dtype=np.float32)
    response = deserialize_sample_response(
        encode_sample_response(
            SampleResult([sequence([1], "stop")], prompt_logprobs=prompt, topk_prompt=(ids, values))
        )
    )
    assert response.prompt_logprobs == [None, -0.5, -1.5]
    topk = response.topk_prompt_logprobs
    assert topk is not None
    assert len(topk) == 3
    assert topk[1] is not None
    assert [token for token, _ in topk[1]] == [3, 4]
    assert [value for _, value in topk[1]] == pytest.approx([-0.1, -2])
