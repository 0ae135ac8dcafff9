"""The one place where errors become HTTP.

Statuses are chosen by how the SDK reacts (reference/tinker-protocol.md §1): 408, 409, 429 and
5xx are retried for minutes, 402 pauses the client for up to an hour, all else is final. So a
conflict is a 400 here and not a 409. A 400 with an empty or a chunked body is taken for a
proxy's fault and retried: every error has a JSON body with a Content-Length.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tuft import errors
from tuft.store.journal import Refused

_STATUS: Mapping[type[errors.TuftError], int] = {
    errors.InvalidRequest: 400,
    errors.Conflict: 400,
    errors.StaleWriter: 400,
    errors.DamagedCheckpoint: 400,
    # 507 would be retried for five minutes before the user learns that a disk is full.
    errors.StorageFull: 400,
    errors.Unauthenticated: 401,
    errors.NotFound: 404,
    # The SDK then samples again under a new seq_id, and tells a training client that its
    # promise is gone.
    errors.Expired: 410,
    errors.PayloadTooLarge: 413,
    errors.QueueFull: 429,
    errors.Unavailable: 503,
}
_RETRY_AFTER_S = "1"
MAX_DETAIL = 2000
"""Characters of a message: it may quote a name that the client made as long as its body."""


def status_of(error: errors.TuftError) -> int:
    """HTTP status of an error; 500 for what a user should never see."""
    if isinstance(error, Refused):
        return error.tombstone.status
    for kind in type(error).__mro__:
        status = _STATUS.get(kind)
        if status is not None:
            return status
    return 500


def is_final(error: errors.TuftError) -> bool:
    """Whether the SDK gives up on the request, and with it on its seq_id."""
    return 400 <= status_of(error) < 500 and not error.retryable


def error_response(error: errors.TuftError) -> JSONResponse:
    """`{"detail", "code"}` with the error's status, and Retry-After where a retry can help."""
    status = status_of(error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = _RETRY_AFTER_S
    if status == 413:
        # The rest of the body may still be on its way; the connection can't be used again.
        headers["Connection"] = "close"
    detail = error.message[:MAX_DETAIL]
    return JSONResponse({"detail": detail, "code": error.code}, status, headers)


def install(app: FastAPI) -> None:
    """Register the handlers of every error that a router may raise."""

    @app.exception_handler(errors.TuftError)
    async def _domain(_request: Request, error: errors.TuftError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        detail = error.detail
        if error.status_code == 404:
            detail = f"{request.method} {request.url.path} is not served"
        return JSONResponse(
            {"detail": detail, "code": "not_served"}, error.status_code, error.headers
        )

    @app.exception_handler(RequestValidationError)
    async def _parameters(_request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        return error_response(errors.InvalidRequest("; ".join(problems)))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        # Nobody reads this; without it the log would have a traceback.
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def _unforeseen(_request: Request, _error: Exception) -> JSONResponse:
        # Starlette raises it again behind this answer, so that the server logs the traceback.
        return JSONResponse(
            {"detail": "internal error; see the service's log", "code": "internal"}, 500
        )
