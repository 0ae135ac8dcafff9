"""Bodies: what is too large, compressed or not, is refused with bounded memory and time."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from tests.service.api.harness import (
    Api,
    batch,
    config_of,
    create_model_body,
    ok,
    refused,
    serving,
)
from tuft.api.body import Body
from tuft.api.protobuf import check_forward_backward
from tuft.errors import InvalidRequest, PayloadTooLarge

MB = 1024 * 1024


def bomb(megabytes: int, *, stated: bool) -> bytes:
    """A frame of zeros, some 20,000 times smaller than what it becomes."""
    compressor = zstandard.ZstdCompressor(level=19).compressobj(
        size=megabytes * MB if stated else -1
    )
    zeros = b"\x00" * MB
    pieces = [compressor.compress(zeros) for _ in range(megabytes)]
    return b"".join([*pieces, compressor.flush()])


@pytest.mark.parametrize("stated", [True, False])
def test_a_zstd_bomb_takes_bounded_memory_and_time(stated: bool) -> None:
    body = Body(bomb(512, stated=stated), "zstd")
    assert len(body.raw) < MB
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(PayloadTooLarge, match="decompressed"):
        body.plain(16 * MB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began < 5
    assert peak < 128 * MB


def test_the_service_refuses_a_bomb_and_goes_on(api: Api) -> None:
    run_id = api.run()
    refused(api.forward_backward(bomb(300, stated=False), encoding="zstd"), 413)
    ok(api.forward_backward(batch(run_id, 1)))


def test_a_window_that_would_be_allocated_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=1)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(b"x" * 100) + frame.flush()
    with pytest.raises(InvalidRequest, match="zstd"):
        Body(data, "zstd").plain(MB)


def test_a_frame_that_is_cut_short_is_refused() -> None:
    plain = bytes(range(256)) * 4000
    frame = zstandard.ZstdCompressor().compress(plain)
    assert Body(frame, "zstd").plain(2 * MB) == plain
    for size in (len(frame) - 1, len(frame) // 2, 3, 0):
        with pytest.raises(InvalidRequest, match="zstd"):
            Body(frame[:size], "zstd").plain(2 * MB)


def test_only_one_frame() -> None:
    frame = zstandard.ZstdCompressor().compress(b"abc")
    with pytest.raises(InvalidRequest, match="one frame"):
        Body(frame + frame, "zstd").plain(MB)


def test_another_encoding_is_named(api: Api) -> None:
    assert "'br'" in refused(api.forward_backward(b"x", encoding="br"))


def test_a_body_over_the_limit_is_refused_while_it_is_sent(
    module_store: str, tmp_path: Path
) -> None:
    with serving(config_of(tmp_path, max_request_bytes=100_000), module_store) as api:
        run_id = api.run()
        for size in (100_001, 300_000, 5_000_000):
            response = api.http.post(
                "/api/v1/forward_backward", content=iter([b"x" * 50_000] * (size // 50_000 + 1))
            )
            assert "100000" in refused(response, 413)
        ok(api.forward_backward(batch(run_id, 1)))


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"model_id": ' * 50_000],
    ids=["cut", "list", "no text", "null", "deep list", "deep object"],
)
def test_malformed_json(api: Api, content: bytes) -> None:
    assert "JSON" in refused(api.http.post("/api/v1/optim_step", content=content))


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (b'{"k": "\\ud800"}', "surrogate"),
        (b'{"k": ["\\uDFFF"]}', "surrogate"),
        (b'{"k": ' + b"[" * 300 + b"]" * 300 + b"}", "nested"),
    ],
    ids=["half a pair", "half a pair within", "deep"],
)
def test_json_that_could_not_be_written_again(api: Api, metadata: bytes, told: str) -> None:
    body = json.dumps(create_model_body(api.session()) | {"user_metadata": "HERE"}).encode()
    content = body.replace(b'"HERE"', metadata)
    assert told in refused(api.http.post("/api/v1/create_model", content=content))
    whole = body.replace(b'"HERE"', b'{"k": "\\ud83d\\ude00"}')
    ok(api.http.post("/api/v1/create_model", content=whole))


def test_json_has_a_limit_of_its_own(api: Api) -> None:
    content = json.dumps({"model_id": "x" * 9 * MB}).encode()
    refused(api.http.post("/api/v1/optim_step", content=content), 413)


@pytest.mark.parametrize(
    "unit",
    [b"\x1a\x00", b"\x1a\x02\x0a\x00", b"\x1a\x02\x12\x00", b"\x2a\x00"],
    ids=["datums", "chunks", "tensors", "config"],
)
def test_a_protobuf_bomb_is_refused_before_it_is_parsed(api: Api, unit: bytes) -> None:
    data = unit * (32 * MB // len(unit))
    began = time.monotonic()
    refused(api.forward_backward(zstandard.ZstdCompressor().compress(data), encoding="zstd"), 413)
    assert time.monotonic() - began < 5


def test_a_shape_bomb_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="shape"):
        check_forward_backward(
            batch("run", 1, change=lambda m: _shape(m, [1] * 1000)), max_fields=1000
        )


def test_a_large_ordinary_batch_passes_the_check() -> None:
    data = batch("run", 1, rows=4096, weights=[1.0] * 4)
    began = time.monotonic()
    check_forward_backward(data, 64 * 4096)
    assert time.monotonic() - began < 2


def _shape(message: object, sizes: list[int]) -> None:
    message.data[0].loss_fn_inputs["target_tokens"].shape.extend(sizes)  # type: ignore[attr-defined]
