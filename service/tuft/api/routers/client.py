"""Client configuration: what the SDK asks first."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tuft.api.deps import Authenticated, Injected

router = APIRouter()


@router.post("/client/config")
async def config(services: Injected, _caller: Authenticated) -> dict[str, Any]:
    """Flags of the SDK; those left out keep the SDK's defaults.

    Chunks of one forward_backward come one after the other, so that each request proves the
    earlier ones answered (tuft.api.submission), and are as large as our limits allow, so that
    there are few. The SDK's estimate of a chunk's bytes is below what arrives, hence the half.
    """
    limits = services.config.limits
    return {
        "parallel_fwdbwd_chunks": False,
        "proto_compress_fwdbwd": True,
        "fwdbwd_max_chunk_len": limits.max_datums,
        "fwdbwd_max_chunk_bytes_count": min(limits.max_request_bytes, limits.max_decompressed_bytes)
        // 2,
    }


@router.post("/client/dynamic_config")
async def dynamic_config(_caller: Authenticated) -> dict[str, Any]:
    return {"refresh_interval_sec": 300, "sample_cancel_enabled": False}
