"""Request bodies: read with a cap, decompressed with a cap, parsed with errors that say where."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import zstandard
from fastapi import Request
from pydantic import BaseModel, ValidationError

from tuft.errors import InvalidRequest, PayloadTooLarge

Model = TypeVar("Model", bound=BaseModel)

MAX_JSON_BYTES = 8 * 1024 * 1024
"""JSON costs many times its size once parsed; the longest prompt is far below this."""

MAX_JSON_DEPTH = 64
"""Of lists and objects in each other; what writes a value out again recurses."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

# A frame may name any window, and the decoder would allocate it.
_MAX_ZSTD_WINDOW = 128 * 1024 * 1024
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Body:
    """A request body as it came: `encoding` is its Content-Encoding, "" for none."""

    raw: bytes
    encoding: str

    def stated_bytes(self) -> float:
        """Size of the decompressed body as far as it is stated; infinity where it is not."""
        if self.encoding != "zstd":
            return len(self.raw)
        try:
            stated = zstandard.get_frame_parameters(self.raw).content_size
        except zstandard.ZstdError:
            return 0  # it will be refused
        return math.inf if stated == zstandard.CONTENTSIZE_UNKNOWN else stated

    def plain(self, max_bytes: int) -> bytes:
        """The decompressed body.

        Raises:
            PayloadTooLarge: it is larger than `max_bytes`.
            InvalidRequest: an encoding other than zstd, or not one whole frame.
        """
        if self.encoding in ("", "identity"):
            data = self.raw
        elif self.encoding == "zstd":
            if max_bytes < self.stated_bytes() < math.inf:
                raise _too_large(max_bytes)
            data = _unzstd(self.raw, max_bytes)
        else:
            raise InvalidRequest(
                f"Content-Encoding {self.encoding!r} is not served; use zstd, or none"
            )
        if len(data) > max_bytes:
            raise PayloadTooLarge(f"the body has {len(data)} bytes; the limit is {max_bytes}")
        return data

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object.

        Raises:
            InvalidRequest: not JSON, not an object, nested too deeply, or with text that is none.
        """
        data = self.plain(MAX_JSON_BYTES)
        if not data:
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidRequest(f"the body must be a JSON object, not {type(value).__name__}")
        _check_depth(value)
        _check_text(data, value)
        return value

    def parse(self, model: type[Model]) -> Model:
        """The body as `model`; InvalidRequest names each field that is wrong."""
        return parse(model, self.json_object())


def parse(model: type[Model], value: dict[str, Any]) -> Model:
    """Validate a JSON object; InvalidRequest names each field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest("; ".join(_problems(error))) from error


async def read_body(request: Request, max_bytes: int) -> Body:
    """Read a body of at most `max_bytes` (compressed) bytes.

    A larger one is read to its end and dropped, up to four times the limit: clients that are
    still sending when the answer comes see a broken connection instead of it.

    Raises:
        PayloadTooLarge: more than `max_bytes`.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size <= max_bytes:
            pieces.append(piece)
        else:
            pieces.clear()
        if size > 4 * max_bytes:
            break
    if size > max_bytes:
        raise PayloadTooLarge(f"the body has more than {max_bytes} bytes, which is the limit")
    return Body(b"".join(pieces), request.headers.get("content-encoding", "").strip().lower())


def _check_depth(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise InvalidRequest(f"the JSON body is nested more than {MAX_JSON_DEPTH} levels deep")


def _check_text(data: bytes, value: dict[str, Any]) -> None:
    """Half of a surrogate pair can be escaped in JSON, but is no text and can't be stored."""
    if _SURROGATE.search(data) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise InvalidRequest(
            f"the JSON body has {character!r}, which is half of a surrogate pair and no text"
        ) from error


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes when decompressed")


def _unzstd(data: bytes, max_bytes: int) -> bytes:
    try:
        out = io.BytesIO()
        decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        piece = decoder.decompressobj(write_size=_READ_BYTES)
        source = memoryview(data)
        # Small slices: one kilobyte of input can't become more than 32 MB of output.
        for start in range(0, len(source), 1024):
            out.write(piece.decompress(source[start : start + 1024]))
            if out.tell() > max_bytes:
                raise _too_large(max_bytes)
            if piece.eof:
                if start + 1024 < len(source) or piece.unused_data:
                    raise InvalidRequest("the body has data behind its zstd frame; send one frame")
                return out.getvalue()
    except zstandard.ZstdError as error:
        raise InvalidRequest(f"the body is not a valid zstd frame: {error}") from error
    raise InvalidRequest("the body's zstd frame is cut short")


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown field"
        problems.append(f"{where}: {message}" if where else message)
    return problems[:20]
