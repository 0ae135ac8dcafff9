"""retrieve_future: the long poll that every result comes through."""

from __future__ import annotations

import asyncio

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from tuft.api import schemas
from tuft.api.deps import Authenticated, Injected, JsonBody
from tuft.api.services import Services
from tuft.api.waiters import Found
from tuft.contracts.operations import FutureRecord
from tuft.errors import Expired, NotFound, Unavailable

router = APIRouter()

_LOOK_EVERY_S = 5.0
"""Results are announced; this is for an announcement that was missed."""
_LOOK_WHEN_AWAY_S = 1.0
PROTOBUF = "application/x-protobuf"


@router.post("/retrieve_future")
async def retrieve_future(services: Injected, caller: Authenticated, body: JsonBody) -> Response:
    """Hold until the result is there, at most `limits.long_poll_s`, then say 408.

    The SDK polls again at once after a 408 or a 5xx, without a pause: an answer that is not
    the result must take its time, also while the store is away.
    """
    request_id = body.parse(schemas.RetrieveFuture).request_id
    loop = asyncio.get_running_loop()
    deadline = loop.time() + services.config.limits.long_poll_s
    with services.waiters.watch(request_id) as watch:
        if services.waiters.expects(request_id, caller.tenant):
            await _wait(watch.event, min(services.config.limits.long_poll_s, _LOOK_EVERY_S))
        while True:
            # Before looking: an announcement that comes while we look must not be lost.
            watch.event.clear()
            found, watch.found = watch.found, None
            if found is not None and found[0].tenant == caller.tenant and _is_whole(found):
                return answer_of(services, *found)
            pause = _LOOK_EVERY_S
            try:
                answer = await to_thread.run_sync(
                    look, services, caller.tenant, request_id, limiter=services.look_ups
                )
            except Unavailable:
                answer, pause = None, _LOOK_WHEN_AWAY_S
            if answer is not None:
                return answer
            left = deadline - loop.time()
            if services.waiters.stopping:
                return try_again(request_id)
            if left <= 0:
                paused = await to_thread.run_sync(
                    why_paused, services, request_id, limiter=services.look_ups
                )
                return try_again(request_id, paused)
            await _wait(watch.event, min(left, pause))


def look(services: Services, tenant: str, request_id: str) -> Response | None:
    """The answer, or None while the request is pending.

    Raises:
        NotFound: no such request, or another tenant's.
        Expired: its result was removed after its time.
        Unavailable: the store or the object store is away.
    """
    future, body = services.store.futures.get(request_id, tenant)
    return None if future.status == "pending" else answer_of(services, future, body)


def answer_of(services: Services, future: FutureRecord, body: bytes | None) -> Response:
    """The answer that a finished future holds or names. Raises: as `look`."""
    if future.status == "failed":
        # A 200: the SDK takes any other status for a fault of the transport.
        error = future.error or "the operation failed"
        return JSONResponse({"error": error, "category": future.category})
    if future.body_object is not None:
        try:
            body = services.objects.get(future.body_object)
        except NotFound as error:
            raise Expired(
                f"the result of request {future.request_id!r} is no longer kept"
            ) from error
    media_type = PROTOBUF if future.content == "proto" else "application/json"
    return Response(body or b"", media_type=media_type)


def why_paused(services: Services, request_id: str) -> str | None:
    """Why the training run of a pending request does not get to its work; None where it does."""
    run_id = request_id.rpartition(":")[0]
    try:
        base_model = services.store.runs.get(run_id).base_model
        return services.store.queues.reason(base_model, run_id)
    except (NotFound, Unavailable):
        return None


def try_again(request_id: str, paused: str | None = None) -> Response:
    """The quiet "not yet": the SDK logs the 200 form of it as a warning each time."""
    body = {"type": "try_again", "request_id": request_id, "queue_state": "active"}
    if paused is not None:
        body |= {"queue_state": "paused_capacity", "queue_state_reason": paused}
    return JSONResponse(body, 408)


def _is_whole(found: Found) -> bool:
    """Whether the answer is at hand: what lies in the object store takes a thread to fetch."""
    return found[0].body_object is None


async def _wait(announced: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await announced.wait()
    except TimeoutError:
        return
