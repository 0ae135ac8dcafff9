"""What a step is going to submit, in a form that a second execution can submit again.

A plan is bytes: a line of JSON that describes the operations, and the data of the
forward_backward operations as protobuf. Floats survive exactly, so that the journal sees the
same content and answers with the first execution's results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tinker import types
from tinker.proto import tinker_public_pb2 as pb
from tinker.proto.request_conv import forward_backward_request_to_proto

from tuft_sdk.errors import SdkError

_FORMAT = "tuft.plan/1"
_NUMPY = {pb.DTYPE_FLOAT32: "<f4", pb.DTYPE_INT64: "<i8"}


@dataclass(frozen=True)
class ForwardBackward:
    """One request: `data` must fit into one chunk of the SDK (`AttachedRun.chunks`)."""

    data: Sequence[types.Datum]
    loss_fn: types.LossFnType
    loss_fn_config: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Forward:
    """As ForwardBackward, without gradients: what the loss is, and nothing changes."""

    data: Sequence[types.Datum]
    loss_fn: types.LossFnType
    loss_fn_config: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimStep:
    adam: types.AdamParams


@dataclass(frozen=True)
class SaveForSampler:
    """A policy version under `name`; `ttl_seconds` None keeps it for ever."""

    name: str
    ttl_seconds: int | None = None


@dataclass(frozen=True)
class SaveState:
    """A training checkpoint (weights and optimizer) under `name`."""

    name: str
    ttl_seconds: int | None = None


Operation = ForwardBackward | Forward | OptimStep | SaveForSampler | SaveState


@dataclass(frozen=True)
class Plan:
    """Operations in order, and `notes`: JSON values that the step's result needs."""

    operations: Sequence[Operation]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def stages(self, first: int = 0, end: int | None = None) -> list[list[Operation]]:
        """The operations from `first` to before `end`, in groups that are submitted together.

        Gradients and the optimizer step that uses them are one stage; each save waits for what
        is before it, so that a failed update is never published under a name.
        """
        stages: list[list[Operation]] = [[]]
        for operation in self.operations[first:end]:
            if isinstance(operation, SaveForSampler | SaveState) and stages[-1]:
                stages.append([])
            stages[-1].append(operation)
            if not isinstance(operation, ForwardBackward | Forward):
                stages.append([])
        return [stage for stage in stages if stage]

    def encode(self) -> bytes:
        entries: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for operation in self.operations:
            entry, blob = _encode(operation)
            entries.append(entry)
            blobs.append(blob)
        header = {"format": _FORMAT, "operations": entries, "notes": dict(self.notes)}
        return json.dumps(header).encode() + b"\n" + b"".join(blobs)

    @classmethod
    def decode(cls, data: bytes) -> Plan:
        """Raises:
        SdkError: the bytes are not a plan of this format.
        """
        head, newline, rest = data.partition(b"\n")
        try:
            header = json.loads(head)
        except ValueError as error:
            raise SdkError(f"the recorded plan is not of format {_FORMAT}: {error}") from error
        if not newline or not isinstance(header, dict) or header.get("format") != _FORMAT:
            found = header.get("format") if isinstance(header, dict) else header
            raise SdkError(f"the recorded plan has format {found!r}; this version reads {_FORMAT}")
        operations: list[Operation] = []
        start = 0
        for entry in header["operations"]:
            end = start + entry.get("size", 0)
            operations.append(_decode(entry, rest[start:end]))
            start = end
        return cls(operations=operations, notes=header["notes"])


def _encode(operation: Operation) -> tuple[dict[str, Any], bytes]:
    match operation:
        case ForwardBackward() | Forward():
            request = types.ForwardBackwardRequest(
                forward_backward_input=types.ForwardBackwardInput(
                    data=list(operation.data),
                    loss_fn=operation.loss_fn,
                    loss_fn_config=dict(operation.loss_fn_config),
                ),
                model_id="",
                seq_id=0,
            )
            blob = bytes(forward_backward_request_to_proto(request).SerializeToString())
            kind = "forward" if isinstance(operation, Forward) else "forward_backward"
            return {"kind": kind, "size": len(blob)}, blob
        case OptimStep():
            return {"kind": "optim_step", "adam": operation.adam.model_dump()}, b""
        case SaveForSampler():
            return _saving("save_for_sampler", operation), b""
        case SaveState():
            return _saving("save_state", operation), b""


def _saving(kind: str, operation: SaveForSampler | SaveState) -> dict[str, Any]:
    return {"kind": kind, "name": operation.name, "ttl_seconds": operation.ttl_seconds}


def _decode(entry: Mapping[str, Any], blob: bytes) -> Operation:
    match entry["kind"]:
        case "forward_backward":
            return ForwardBackward(*_decode_request(blob))
        case "forward":
            return Forward(*_decode_request(blob))
        case "optim_step":
            return OptimStep(adam=types.AdamParams(**entry["adam"]))
        case "save_for_sampler":
            return SaveForSampler(name=entry["name"], ttl_seconds=entry["ttl_seconds"])
        case "save_state":
            return SaveState(name=entry["name"], ttl_seconds=entry["ttl_seconds"])
        case other:
            raise SdkError(f"the recorded plan has an operation of unknown kind {other!r}")


def _decode_request(
    blob: bytes,
) -> tuple[list[types.Datum], types.LossFnType, dict[str, float]]:
    message = pb.ForwardBackwardRequest.FromString(blob)
    return (
        [_decode_datum(datum) for datum in message.data],
        message.loss_fn,
        {name: value.number for name, value in message.loss_fn_config_v2.items()},
    )


def _decode_datum(datum: pb.Datum) -> types.Datum:
    tokens = [
        token
        for chunk in datum.model_input
        for token in np.frombuffer(chunk.encoded_text.tokens, dtype="<i4").tolist()
    ]
    inputs = {
        name: types.TensorData.from_numpy(
            np.frombuffer(tensor.dense, dtype=_NUMPY[tensor.dtype]).reshape(list(tensor.shape))
        )
        for name, tensor in datum.loss_fn_inputs.items()
    }
    return types.Datum(model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)
