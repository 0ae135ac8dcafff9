"""Decoding of forward_backward requests, as the Tinker SDK itself encodes them, and of broken ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from tinker import types
from tinker.proto import tinker_public_pb2 as pb
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.types.forward_backward_input import ForwardBackwardInput
from tinker.types.forward_backward_request import ForwardBackwardRequest as SdkRequest

from tuft.contracts.wire import content_digest, decode_forward_backward, identity
from tuft.errors import InvalidRequest

RUN_ID = "s-1:train:0"


def datum(tokens: list[int], inputs: Mapping[str, object]) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens),
        loss_fn_inputs=dict(inputs),  # type: ignore[arg-type]
    )


def message(
    *data: types.Datum,
    loss_fn: str = "cross_entropy",
    config: Mapping[str, float | str] | None = None,
    forward_only: bool = False,
) -> pb.ForwardBackwardRequest:
    """What the SDK sends, still as a message, so that a test can break it."""
    request = SdkRequest(
        forward_backward_input=ForwardBackwardInput(
            data=list(data),
            loss_fn=loss_fn,  # type: ignore[arg-type]
            loss_fn_config=config,
        ),
        model_id=RUN_ID,
        seq_id=7,
    )
    result = forward_backward_request_to_proto(request)
    result.forward_only = forward_only
    return result


def simple() -> pb.ForwardBackwardRequest:
    return message(datum([1, 2, 3], {"target_tokens": np.array([2, 3, 4])}))


def refused(broken: pb.ForwardBackwardRequest) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_forward_backward(broken.SerializeToString())
    return caught.value.message


def test_dense_tensors() -> None:
    rng = np.random.default_rng(0)
    logprobs = rng.normal(size=3).astype(np.float32)
    request = decode_forward_backward(
        message(
            datum([1, 2, 2**31 - 1], {"target_tokens": [2, -3, 2**40], "logprobs": logprobs}),
            datum([9], {"target_tokens": np.array([5]), "weights": np.array([-0.5])}),
            loss_fn="ppo",
            config={"clip_low_threshold": 0.8, "clip_high_threshold": 1.25, "name": "text"},
        ).SerializeToString()
    )
    assert (request.run_id, request.seq_id, request.loss_fn) == (RUN_ID, 7, "ppo")
    assert not request.forward_only
    assert request.num_tokens == 4
    assert request.loss_config == {
        "clip_low_threshold": 0.8,
        "clip_high_threshold": 1.25,
        "name": "text",
    }
    first, second = request.rows
    assert first.tokens.dtype == np.int32
    assert first.tokens.tolist() == [1, 2, 2**31 - 1]
    assert first.inputs["target_tokens"].dtype == np.int64
    assert first.inputs["target_tokens"].tolist() == [2, -3, 2**40]
    assert first.inputs["logprobs"].dtype == np.float32
    np.testing.assert_array_equal(first.inputs["logprobs"], logprobs)
    assert second.inputs["weights"].tolist() == [-0.5]


def test_old_clients_send_numbers_in_the_first_map_only() -> None:
    old = message(datum([1], {"target_tokens": [2]}), config={"beta": 0.5})
    old.loss_fn_config_v2.clear()
    assert decode_forward_backward(old.SerializeToString()).loss_config == {"beta": 0.5}


def test_forward_only_and_identity() -> None:
    data = message(datum([1], {"target_tokens": [2]}), forward_only=True).SerializeToString()
    assert decode_forward_backward(data).forward_only
    assert identity(data) == (RUN_ID, 7, True)


def test_two_dimensions_dense() -> None:
    targets = np.arange(6).reshape(3, 2)
    weights = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    request = decode_forward_backward(
        message(
            datum([1, 2, 3], {"target_tokens": targets, "weights": weights})
        ).SerializeToString()
    )
    row = request.rows[0]
    np.testing.assert_array_equal(row.inputs["target_tokens"], targets)
    np.testing.assert_array_equal(row.inputs["weights"], weights)


def test_sparse_csr_where_missing_means_zero() -> None:
    targets = torch.zeros(6, 8, dtype=torch.int64)
    weights = torch.zeros(6, 8)
    # An empty row first, in the middle and last; negative and fractional weights.
    for row, column, token, weight in ((1, 0, 11, 0.5), (1, 7, 12, -2.0), (4, 3, 13, 0.25)):
        targets[row, column], weights[row, column] = token, weight
    sent = message(datum([1] * 6, {"target_tokens": targets, "weights": weights}))
    for name in ("target_tokens", "weights"):
        assert sent.data[0].loss_fn_inputs[name].WhichOneof("encoding") == "sparse_csr"
    row_ = decode_forward_backward(sent.SerializeToString()).rows[0]
    np.testing.assert_array_equal(row_.inputs["target_tokens"], targets.numpy())
    np.testing.assert_array_equal(row_.inputs["weights"], weights.numpy())
    assert row_.inputs["weights"].dtype == np.float32


def test_an_all_zero_sparse_tensor() -> None:
    weights = torch.zeros(5, 4)
    sent = message(datum([1] * 5, {"weights": weights}))
    assert sent.data[0].loss_fn_inputs["weights"].WhichOneof("encoding") == "sparse_csr"
    found = decode_forward_backward(sent.SerializeToString()).rows[0].inputs["weights"]
    np.testing.assert_array_equal(found, weights.numpy())


def test_chunks_of_text_are_joined() -> None:
    model_input = types.ModelInput(
        chunks=[types.EncodedTextChunk(tokens=[1, 2]), types.EncodedTextChunk(tokens=[3])]
    )
    sent = message(types.Datum(model_input=model_input, loss_fn_inputs={}))
    assert decode_forward_backward(sent.SerializeToString()).rows[0].tokens.tolist() == [1, 2, 3]


def test_an_empty_request_is_the_apis_to_refuse() -> None:
    assert decode_forward_backward(b"").rows == []


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"{}", b'{"model_id": "x"}', simple().SerializeToString()[:-3]]
)
def test_malformed_protobuf(data: bytes) -> None:
    for decode in (decode_forward_backward, identity):
        with pytest.raises(InvalidRequest, match="not a serialized tinker_public"):
            decode(data)


def test_an_image_chunk() -> None:
    chunks: list[types.ModelInputChunk] = [
        types.EncodedTextChunk(tokens=[1]),
        types.ImageChunk(data=b"png", format="png"),
    ]
    sent = message(
        datum([1], {}), types.Datum(model_input=types.ModelInput(chunks=chunks), loss_fn_inputs={})
    )
    assert refused(sent) == (
        "data[1].model_input has a chunk of type 'image'; this service takes: 'encoded_text'"
    )


def test_a_chunk_without_content() -> None:
    sent = simple()
    sent.data[0].model_input.add()
    assert "this service takes: 'encoded_text'" in refused(sent)


def test_truncated_bytes() -> None:
    sent = simple()
    sent.data[0].model_input[0].encoded_text.tokens += b"\x00"
    assert "data[0].model_input: 13 bytes of tokens" in refused(sent)
    sent = simple()
    tensor = sent.data[0].loss_fn_inputs["target_tokens"]
    tensor.dense = tensor.dense[:-1]
    assert refused(sent) == (
        "data[0].loss_fn_inputs['target_tokens']: 23 bytes are not a whole number of int64"
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([4], "3 values do not fill shape [4] (4 values)"),
        ([2], "3 values do not fill shape [2] (2 values)"),
        ([3, 2], "3 values do not fill shape [3, 2] (6 values)"),
        ([0, 5], "3 values do not fill shape [0, 5] (0 values)"),
        ([-1], "shape [-1] must be [N] or [N, K]"),
        ([-1, -3], "shape [-1, -3] must be [N] or [N, K]"),
        ([3, 1, 1], "shape [3, 1, 1] must be [N] or [N, K]"),
        ([1] * 100, "must be [N] or [N, K]"),
        ([2**62, 0], "must be [N] or [N, K]"),
        ([0, 2**63 - 1], "must be [N] or [N, K]"),
    ],
)
def test_shapes_that_do_not_fit(shape: list[int], expected: str) -> None:
    sent = simple()
    tensor = sent.data[0].loss_fn_inputs["target_tokens"]
    tensor.shape[:] = shape
    if 0 in shape and max(shape) > 5:
        tensor.dense = b""
    text = refused(sent)
    assert text.startswith("data[0].loss_fn_inputs['target_tokens']: ")
    assert expected in text


@pytest.mark.parametrize("dtype", [0, pb.DTYPE_INT32, pb.DTYPE_BFLOAT16, 99])
def test_an_unknown_dtype(dtype: int) -> None:
    sent = simple()
    sent.data[0].loss_fn_inputs["target_tokens"].dtype = dtype
    assert f"dtype {dtype} is not served; use float32 or int64" in refused(sent)


def int64(*values: int) -> bytes:
    return np.array(values, dtype=np.uint64).astype(np.int64).tobytes()


def sparse(shape: list[int], crow: bytes, col: bytes, values: int) -> pb.ForwardBackwardRequest:
    sent = simple()
    tensor = sent.data[0].loss_fn_inputs["target_tokens"]
    tensor.shape[:] = shape
    tensor.sparse_csr.crow_indices = crow
    tensor.sparse_csr.col_indices = col
    tensor.sparse_csr.values = int64(*range(1, values + 1))
    return sent


@pytest.mark.parametrize(
    ("crow", "col", "values"),
    [
        (int64(), int64(), 0),
        (int64(0, 1), int64(0), 1),
        (int64(0, 1, 2, 2, 2), int64(0, 1), 2),
        (int64(0, 1, 2, 3), int64(0, 1), 2),
        (int64(1, 1, 2, 2), int64(0, 1), 2),
        (int64(0, 2, 1, 2), int64(0, 1), 2),
        (int64(0, 1, 2, 2), int64(0, 4), 2),
        (int64(0, 1, 2, 2), int64(0, 2**64 - 1), 2),
        (int64(0, 1, 2, 2), int64(0), 2),
        (int64(0, 1, 2, 2), int64(0, 1), 3),
        # Differences that wrap around to plausible counts.
        (int64(0, 2**63 - 1, 2**64 - 2, 2), int64(0, 1), 2),
    ],
)
def test_inconsistent_csr(crow: bytes, col: bytes, values: int) -> None:
    text = refused(sparse([3, 4], crow, col, values))
    assert text == (
        "data[0].loss_fn_inputs['target_tokens']: inconsistent CSR indices for shape [3, 4]"
    )


def test_csr_of_another_rank_or_with_doubled_elements() -> None:
    fine = sparse([3, 4], int64(0, 2, 2, 2), int64(1, 3), 2)
    rows = decode_forward_backward(fine.SerializeToString()).rows
    assert rows[0].inputs["target_tokens"][0].tolist() == [0, 1, 0, 2]
    for shape in ([], [12]):
        text = refused(sparse(shape, int64(0, 2, 2, 2), int64(1, 3), 2))
        assert "a sparse CSR tensor needs a 2-D shape" in text
    assert "given twice" in refused(sparse([3, 4], int64(0, 2, 2, 2), int64(1, 1), 2))
    broken = sparse([3, 4], int64(0, 2, 2, 2) + b"x", int64(1, 3), 2)
    assert "33 bytes are not a whole number of int64" in refused(broken)


def test_a_few_bytes_cannot_claim_much_memory() -> None:
    huge = sparse([1, 2**30], int64(0, 1), int64(5), 1)
    assert len(huge.SerializeToString()) < 200
    assert "the sparse tensors up to here have more than 33554432 elements" in refused(huge)
    # Nor can many tensors that are each within bounds.
    many = sparse([1, 2**24], int64(0, 1), int64(5), 1)
    for _ in range(2):
        many.data.add().CopyFrom(many.data[0])
    assert refused(many).startswith("data[2].loss_fn_inputs['target_tokens']: the sparse tensors")


def digest(request: pb.ForwardBackwardRequest) -> str:
    return content_digest(decode_forward_backward(request.SerializeToString()))


def test_the_digest_is_of_the_content() -> None:
    config = {"b": 1.0, "a": 2.0}
    one = message(
        datum([1, 2], {"target_tokens": [2, 3], "weights": np.array([0.5, 1.0])}), config=config
    )
    # The same in another order of the maps, in two chunks, without the legacy map.
    other = message(
        datum([1, 2], {"weights": np.array([0.5, 1.0]), "target_tokens": [2, 3]}),
        config=dict(reversed(config.items())),
    )
    del other.data[0].model_input[:]
    for token in (1, 2):
        chunk = other.data[0].model_input.add()
        chunk.encoded_text.tokens = np.array([token], dtype="<i4").tobytes()
    other.loss_fn_config.clear()
    other.seq_id = 8
    assert one.SerializeToString() != other.SerializeToString()
    assert digest(one) == digest(other)
    dense = torch.zeros(4, 4)
    dense[2, 1] = 3.0
    as_csr = message(datum([1] * 4, {"weights": dense}))
    as_dense = message(datum([1] * 4, {"weights": dense.numpy()}))
    assert as_csr.SerializeToString() != as_dense.SerializeToString()
    assert digest(as_csr) == digest(as_dense)


def _tokens(sent: pb.ForwardBackwardRequest) -> None:
    sent.data[0].model_input[0].encoded_text.tokens = np.array([1, 3], dtype="<i4").tobytes()


def _weight(sent: pb.ForwardBackwardRequest) -> None:
    weights = np.array([0.5, np.nextafter(np.float32(1), np.float32(2))], dtype="<f4")
    sent.data[0].loss_fn_inputs["weights"].dense = weights.tobytes()


def _renamed(sent: pb.ForwardBackwardRequest) -> None:
    inputs = sent.data[0].loss_fn_inputs
    inputs["logprobs"].CopyFrom(inputs["weights"])
    del inputs["weights"]


def _shape(sent: pb.ForwardBackwardRequest) -> None:
    sent.data[0].loss_fn_inputs["weights"].shape[:] = [2, 1]


def _dtype(sent: pb.ForwardBackwardRequest) -> None:
    tensor = sent.data[0].loss_fn_inputs["target_tokens"]
    tensor.dtype = pb.DTYPE_FLOAT32
    tensor.shape[:] = [4]


def _row(sent: pb.ForwardBackwardRequest) -> None:
    sent.data.add().CopyFrom(sent.data[0])


def _empty_row(sent: pb.ForwardBackwardRequest) -> None:
    sent.data.add()


def _order(sent: pb.ForwardBackwardRequest) -> None:
    _row(sent)
    _tokens(sent)


def _loss(sent: pb.ForwardBackwardRequest) -> None:
    sent.loss_fn = "ppo"


def _forward(sent: pb.ForwardBackwardRequest) -> None:
    sent.forward_only = True


def _config(sent: pb.ForwardBackwardRequest) -> None:
    sent.loss_fn_config_v2["a"].number = 2.5


def _text(sent: pb.ForwardBackwardRequest) -> None:
    sent.loss_fn_config_v2["a"].text = "2.0"


CHANGES: list[Callable[[pb.ForwardBackwardRequest], None]] = [
    _tokens, _weight, _renamed, _shape, _dtype, _row, _empty_row, _order, _loss, _forward,
    _config, _text,
]  # fmt: skip


def test_different_requests_have_different_digests() -> None:
    def base() -> pb.ForwardBackwardRequest:
        return message(
            datum([1, 2], {"target_tokens": [2, 3], "weights": np.array([0.5, 1.0])}),
            config={"a": 2.0},
        )

    digests = {digest(base())}
    for change in CHANGES:
        changed = base()
        change(changed)
        digests.add(digest(changed))
    assert len(digests) == len(CHANGES) + 1


def test_rows_and_inputs_cannot_be_mistaken_for_each_other() -> None:
    """One row with two inputs, and three rows whose bytes read the same one after another."""
    values = np.arange(12, dtype="<f4")
    two = message(datum([1], {"a": values, "bbbb": values}))
    three = message(datum([1], {"a": values}))
    for part in (b"bbbb", b"float32(12,)", values.tobytes()):
        three.data.add().model_input.add().encoded_text.tokens = part
    assert digest(two) != digest(three)
