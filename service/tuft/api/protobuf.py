"""How much a protobuf message would become in memory, found out before it is parsed.

A parser makes an object of some 80 bytes of every embedded message, also of an empty one that
takes two bytes on the wire, and eight bytes of every one-byte number. A few megabytes of those
would fill the memory of the process.
"""

from __future__ import annotations

from tuft.errors import InvalidRequest, PayloadTooLarge

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_SHAPE_BYTES = 64

# Which fields of a message hold messages whose fields are counted, too.
_Tree = dict[int, "_Tree"]
_TENSOR: _Tree = {}
_REQUEST: _Tree = {3: {2: {2: _TENSOR}}}
_SHAPE_FIELD = 4


def check_forward_backward(data: bytes, max_fields: int) -> None:
    """Raise unless a ForwardBackwardRequest is of reasonable size when parsed.

    What is malformed passes: the parser says it better.

    Raises:
        PayloadTooLarge: it has more than `max_fields` fields, those of its datums included.
        InvalidRequest: a tensor's shape has far too many dimensions.
    """
    # Positions where a message ends, with its tree: a stack instead of recursion.
    open_messages: list[tuple[int, _Tree]] = [(len(data), _REQUEST)]
    position, fields = 0, 0
    while open_messages:
        end, tree = open_messages[-1]
        if position >= end:
            open_messages.pop()
            continue
        fields += 1
        if fields > max_fields:
            raise PayloadTooLarge(
                f"the request has more than {max_fields} fields; send fewer datums in a request"
            )
        tag, position = _varint(data, position)
        kind, number = tag & 7, tag >> 3
        if kind == _BYTES:
            size, position = _varint(data, position)
            if tree is _TENSOR and number == _SHAPE_FIELD and size > _MAX_SHAPE_BYTES:
                raise InvalidRequest("a tensor's shape has too many dimensions; use [N] or [N, K]")
            inner = tree.get(number)
            if inner is None:
                position += size
            else:
                open_messages.append((min(end, position + size), inner))
        elif kind == _VARINT:
            _, position = _varint(data, position)
        else:
            position += {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position and the position behind it; cut off at the end of the data."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            break
        shift += 7
    return value, position
