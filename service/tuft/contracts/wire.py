"""Codec between Tinker's protobuf wire format and plain numpy rows.

Messages are those of `tinker.proto.tinker_public_pb2` (package tinker_public). Decoding
checks the shape of what came in; whether it suits a model is the api's validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from tuft.contracts.operations import digest_of
from tuft.contracts.proto import pb
from tuft.errors import InvalidRequest

Array = npt.NDArray[np.generic]
LossConfig = dict[str, float | str]

_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
}
# What all sparse tensors of a request may become: a few bytes may claim any shape.
_MAX_DENSE_ELEMENTS = 32 * 1024 * 1024
# numpy refuses larger shapes even where another size is 0.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """One datum: `tokens` int32 [N]; loss inputs float32 or int64, each [N] or [N, K]."""

    tokens: npt.NDArray[np.int32]
    inputs: Mapping[str, Array]


@dataclass(frozen=True)
class ForwardBackwardRequest:
    """A decoded forward_backward (or, with `forward_only`, forward) request."""

    run_id: str
    seq_id: int
    rows: Sequence[Row]
    loss_fn: str
    loss_config: LossConfig
    forward_only: bool

    @property
    def num_tokens(self) -> int:
        return sum(len(row.tokens) for row in self.rows)


@dataclass(frozen=True)
class SampledSequence:
    """`tokens` int32 [T] and `logprobs` float32 [T] of one sample.

    `topk` are (token ids int32 [T, k], logprobs float32 [T, k]).
    """

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    stop_reason: str
    topk: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class SampleResult:
    """`prompt_logprobs` float32 [P] with NaN first; `topk_prompt` as in SampledSequence."""

    sequences: Sequence[SampledSequence]
    prompt_logprobs: npt.NDArray[np.float32] | None = None
    topk_prompt: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None = None
    prompt_cache_hit_tokens: int = 0


@dataclass(frozen=True)
class ForwardBackwardResult:
    """`logprobs[i]` float32 in the shape of row i's target_tokens; metrics `name:reduction`."""

    logprobs: Sequence[npt.NDArray[np.float32]]
    metrics: Mapping[str, float] = field(default_factory=dict)


def identity(data: bytes) -> tuple[str, int, bool]:
    """run_id, seq_id and forward_only of a serialized ForwardBackwardRequest, all else unchecked.

    Raises:
        InvalidRequest: not that message.
    """
    message = _parse(data)
    return message.model_id, message.seq_id, message.forward_only


def decode_forward_backward(data: bytes) -> ForwardBackwardRequest:
    """Decode a serialized ForwardBackwardRequest.

    Raises:
        InvalidRequest: not that message, an unserved chunk type, or a malformed tensor.
    """
    message = _parse(data)
    _check_sparse_total(message)
    config: LossConfig = dict(message.loss_fn_config)
    for key, value in message.loss_fn_config_v2.items():
        config[key] = value.text if value.WhichOneof("value") == "text" else value.number
    return ForwardBackwardRequest(
        run_id=message.model_id,
        seq_id=message.seq_id,
        rows=[_decode_row(index, datum) for index, datum in enumerate(message.data)],
        loss_fn=message.loss_fn,
        loss_config=config,
        forward_only=message.forward_only,
    )


def content_digest(request: ForwardBackwardRequest) -> str:
    """Digest of the decoded content, equal for equal requests whatever their bytes."""
    parts: list[bytes | str] = [request.loss_fn, str(request.forward_only)]
    # With the counts, no two requests have the same parts.
    parts.append(f"{len(request.loss_config)} config keys")
    parts += [f"{key}={value!r}" for key, value in sorted(request.loss_config.items())]
    for row in request.rows:
        parts.append(f"{len(row.inputs)} inputs")
        parts.append(np.ascontiguousarray(row.tokens).tobytes())
        for name, array in sorted(row.inputs.items()):
            parts += [name, f"{array.dtype}{array.shape}", np.ascontiguousarray(array).tobytes()]
    return digest_of(*parts)


def encode_forward_backward_output(result: ForwardBackwardResult) -> bytes:
    """Serialize as ForwardBackwardOutput: one ArrayRecord a run of equal trailing shapes."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    start = 0
    while start < len(result.logprobs):
        trailing = result.logprobs[start].shape[1:]
        end = start
        while end < len(result.logprobs) and result.logprobs[end].shape[1:] == trailing:
            end += 1
        arrays = [np.ascontiguousarray(a, dtype="<f4") for a in result.logprobs[start:end]]
        record = message.loss_fn_outputs.add(type_tag="ArrayRecord", num_datums=end - start)
        tensor = record.fields["logprobs"]
        tensor.data = b"".join(a.tobytes() for a in arrays)
        tensor.offsets = np.cumsum([0, *(a.nbytes for a in arrays)], dtype="<i8").tobytes()
        tensor.dtype = pb.DTYPE_FLOAT32
        tensor.trailing_shape.extend(trailing)
        start = end
    for name, value in result.metrics.items():
        message.metrics[name] = value
    return bytes(message.SerializeToString())


def encode_sample_response(result: SampleResult) -> bytes:
    """Serialize as SampleResponse."""
    message = pb.SampleResponse(prompt_cache_hit_tokens=result.prompt_cache_hit_tokens)
    for sequence in result.sequences:
        out = message.sequences.add()
        stopped = sequence.stop_reason == "stop"
        out.stop_reason = pb.STOP_REASON_STOP if stopped else pb.STOP_REASON_LENGTH
        out.tokens = np.ascontiguousarray(sequence.tokens, dtype="<i4").tobytes()
        out.logprobs = np.ascontiguousarray(sequence.logprobs, dtype="<f4").tobytes()
        if sequence.topk is not None:
            _encode_topk(out.topk_sampled_logprobs, sequence.topk)
    if result.prompt_logprobs is not None:
        prompt = np.ascontiguousarray(result.prompt_logprobs, dtype="<f4")
        message.prompt_logprobs = prompt.tobytes()
    if result.topk_prompt is not None:
        _encode_topk(message.topk_prompt_logprobs, result.topk_prompt)
    return bytes(message.SerializeToString())


def _encode_topk(
    out: pb.TopkLogprobs, topk: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
) -> None:
    ids, logprobs = topk
    out.length, out.k = ids.shape
    out.token_ids = np.ascontiguousarray(ids, dtype="<i4").tobytes()
    out.logprobs = np.ascontiguousarray(logprobs, dtype="<f4").tobytes()


def _parse(data: bytes) -> pb.ForwardBackwardRequest:
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            f"the body is not a serialized tinker_public.ForwardBackwardRequest: {error}"
        ) from error
    return message


def _check_sparse_total(message: pb.ForwardBackwardRequest) -> None:
    total = 0
    for index, datum in enumerate(message.data):
        for name, tensor in datum.loss_fn_inputs.items():
            if tensor.WhichOneof("encoding") == "sparse_csr":
                total += _product([max(0, size) for size in tensor.shape])
            if total > _MAX_DENSE_ELEMENTS:
                raise InvalidRequest(
                    f"{_tensor_name(index, name)}: the sparse tensors up to here have "
                    f"more than {_MAX_DENSE_ELEMENTS} elements; send fewer datums in a request"
                )


def _decode_row(index: int, datum: pb.Datum) -> Row:
    pieces: list[npt.NDArray[np.int32]] = []
    for chunk in datum.model_input:
        kind = chunk.WhichOneof("chunk")
        if kind != "encoded_text":
            raise InvalidRequest(
                f"data[{index}].model_input has a chunk of type {kind!r}; "
                "this service takes: 'encoded_text'"
            )
        if len(chunk.encoded_text.tokens) % 4:
            raise InvalidRequest(
                f"data[{index}].model_input: {len(chunk.encoded_text.tokens)} bytes of tokens "
                "are not a whole number of int32"
            )
        pieces.append(np.frombuffer(chunk.encoded_text.tokens, dtype="<i4"))
    tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    inputs = {
        name: _decode_tensor(_tensor_name(index, name), tensor)
        for name, tensor in datum.loss_fn_inputs.items()
    }
    return Row(tokens=tokens, inputs=inputs)


def _decode_tensor(where: str, tensor: pb.Tensor) -> Array:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidRequest(f"{where}: dtype {tensor.dtype} is not served; use float32 or int64")
    shape = _shape_of(where, tensor)
    if tensor.WhichOneof("encoding") == "sparse_csr":
        return _decode_csr(where, tensor.sparse_csr, dtype, shape)
    flat = _frombuffer(where, tensor.dense, dtype)
    if not shape:
        return flat
    if flat.size != _product(shape):
        raise InvalidRequest(
            f"{where}: {flat.size} values do not fill shape {shape} ({_product(shape)} values)"
        )
    return flat.reshape(shape)


def _decode_csr(
    where: str, csr: pb.SparseCsr, dtype: np.dtype[np.generic], shape: list[int]
) -> Array:
    if len(shape) != 2:
        raise InvalidRequest(f"{where}: a sparse CSR tensor needs a 2-D shape, not {shape}")
    rows, columns = shape
    values = _frombuffer(where, csr.values, dtype)
    crow = _frombuffer(where, csr.crow_indices, np.dtype("<i8")).astype(np.int64)
    col = _frombuffer(where, csr.col_indices, np.dtype("<i8")).astype(np.int64)
    counts = np.diff(crow)
    sound = (
        len(crow) == rows + 1
        and crow[0] == 0
        and crow[-1] == len(values) == len(col)
        # Both: differences of huge indices wrap around.
        and 0 <= int(crow.min()) <= int(crow.max()) <= len(values)
        and bool((counts >= 0).all())
        and (len(col) == 0 or (int(col.min()) >= 0 and int(col.max()) < columns))
    )
    if not sound:
        raise InvalidRequest(f"{where}: inconsistent CSR indices for shape {shape}")
    row = np.repeat(np.arange(rows), counts)
    given = np.zeros((rows, columns), dtype=np.bool_)
    given[row, col] = True
    if np.count_nonzero(given) != len(col):
        raise InvalidRequest(f"{where}: a CSR element is given twice")
    dense = np.zeros((rows, columns), dtype=dtype)
    dense[row, col] = values
    return dense


def _tensor_name(index: int, name: str) -> str:
    return f"data[{index}].loss_fn_inputs[{name!r}]"


def _shape_of(where: str, tensor: pb.Tensor) -> list[int]:
    shape = list(tensor.shape)
    if len(shape) > 2 or any(not 0 <= size <= _MAX_SIZE for size in shape):
        raise InvalidRequest(
            f"{where}: shape {shape} must be [N] or [N, K], of sizes between 0 and {_MAX_SIZE}"
        )
    return shape


def _frombuffer(where: str, data: bytes, dtype: np.dtype[np.generic]) -> Array:
    if len(data) % dtype.itemsize:
        raise InvalidRequest(f"{where}: {len(data)} bytes are not a whole number of {dtype}")
    return np.frombuffer(data, dtype=dtype)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
