"""The HTTP side: the one call that Argo makes, and who may make it."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tuft_components.argo_plugin.calls import read_call
from tuft_components.argo_plugin.executions import Executions, Stopping
from tuft_components.argo_plugin.wire import NOT_MINE, BadRequest, Reply, parse
from tuft_components.errors import BadConfiguration, ExitCode

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

# A workflow is an object of Kubernetes: 1.5 MiB at most.
_MOST_BYTES = 4 * 1_048_576


class _Refused(Exception):
    """The reply is an HTTP error. Argo tries 503 again, for a quarter of a minute in all."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(executions: Executions, token_file: Path) -> Starlette:
    """The application: `template.execute` for Argo's agent, `healthz` for people."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    async def execute(request: Request) -> Response:
        try:
            _check_token(request, token_file)
            return JSONResponse(await _execute(await _body(request), executions))
        except _Refused as error:
            log.warning("refused with %d: %s", error.status, error)
            return PlainTextResponse(str(error), error.status)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(
        routes=[
            Route("/api/v1/template.execute", execute, methods=["POST"]),
            Route("/healthz", healthz, methods=["GET"]),
        ]
    )


async def _execute(body: bytes, executions: Executions) -> dict[str, object]:
    try:
        asked = parse(body)
    except BadRequest as error:
        raise _Refused(400, str(error)) from error
    if asked is None:
        return NOT_MINE
    try:
        call = read_call(asked)
    except BadConfiguration as error:
        message = f"template {asked.template}: {error}"
        return Reply("Failed", message, {}, exit_code=int(ExitCode.BAD_CONFIGURATION)).body()
    try:
        reply = await executions.ask(call)
    except Stopping as error:
        raise _Refused(503, "the plugin is stopping; ask again") from error
    return reply.body()


def _check_token(request: Request, token_file: Path) -> None:
    """Argo's init container writes the token before we start; it is read anew each time."""
    try:
        token = token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _Refused(
            503, f"the token can't be read: {error}. The sidecar must run as Argo's user, 8737"
        ) from error
    given = request.headers.get("Authorization", "")
    if not token or not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise _Refused(403, f"Authorization is not `Bearer` and the content of {token_file}")


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise _Refused(413, f"the request has more than {_MOST_BYTES} bytes")
    return body
