"""The sandbox runner: sandboxes for steps whose own pods can make none.

    TUFT_SANDBOX_TOKEN=… python -m tuft_components.sandbox.server

`POST /run` takes a `Job` and answers with its `Result`, `GET /check` says that sandboxes can be
made; both want the token. It keeps nothing between two requests: any number of copies may stand
behind one address. What finds no room is refused with 503, and asked again by its client.
"""

from __future__ import annotations

import argparse
import hmac
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tuft_components.errors import BadConfiguration, ExitCode, TransientFailure
from tuft_components.sandbox.jobs import Job, Result
from tuft_components.sandbox.local import LocalSandbox

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

PORT = 8090
_MOST_BYTES = 8 * 1_048_576
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Bounds:
    """
    Args:
        waiting: jobs that may wait for their turn; more are refused.
        memory_mb, wall_s: the most that a job may ask for.
    """

    waiting: int = 64
    memory_mb: int = 1024
    wall_s: float = 60.0


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Runner:
    """Takes jobs while there is room for them."""

    def __init__(self, place: LocalSandbox, bounds: Bounds) -> None:
        import anyio

        self._place, self._bounds = place, bounds
        self._threads = anyio.CapacityLimiter(place.at_once)
        self._taken = 0

    async def run(self, body: bytes) -> Result:
        from anyio import to_thread

        job = self._read(body)
        if self._taken >= self._place.at_once + self._bounds.waiting:
            raise _Refused(503, f"{self._taken} jobs are here already: ask again")
        self._taken += 1
        try:
            return await to_thread.run_sync(self._place.run, job, limiter=self._threads)
        except TransientFailure as error:
            raise _Refused(503, str(error)) from error
        finally:
            self._taken -= 1

    def _read(self, body: bytes) -> Job:
        try:
            job = Job.model_validate_json(body)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise _Refused(422, "; ".join(lines)) from error
        limits, bounds = job.limits, self._bounds
        if limits.memory_mb > bounds.memory_mb or limits.wall_s > bounds.wall_s:
            raise _Refused(
                422, f"at most memory_mb {bounds.memory_mb} and wall_s {bounds.wall_s:g} here"
            )
        return job


def make_app(place: LocalSandbox, token: str, bounds: Bounds) -> FastAPI:
    """The application."""
    from fastapi import FastAPI
    from starlette.responses import JSONResponse, PlainTextResponse

    runner = Runner(place, bounds)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def run(request: Request) -> Response:
        _check_token(request, token)
        result = await runner.run(await _body(request))
        return JSONResponse(result.model_dump())

    async def check(request: Request) -> Response:
        _check_token(request, token)
        return JSONResponse({"sandbox": place.check()})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, _Refused)
        log.info("refused with %d: %s", error.status, error)
        return PlainTextResponse(str(error), error.status)

    app.add_route("/run", run, methods=["POST"])
    app.add_route("/check", check, methods=["GET"])
    app.add_route("/healthz", healthz, methods=["GET"])
    app.add_exception_handler(_Refused, refused)
    return app


def _check_token(request: Request, token: str) -> None:
    given = request.headers.get("Authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise _Refused(401, "Authorization is not `Bearer` and the runner's token")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise _Refused(413, f"the request has more than {_MOST_BYTES} bytes")
    return bytes(body)


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        _serve(parsed)
    except BadConfiguration as error:
        sys.stderr.write(f"{error}\n")
        return int(ExitCode.BAD_CONFIGURATION)
    return 0


def _serve(parsed: argparse.Namespace) -> None:
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise BadConfiguration("pip install 'tuft-pipelines[argo]' first")
    import uvicorn

    token = os.environ.pop("TUFT_SANDBOX_TOKEN", "")
    if len(token) < _SHORTEST_TOKEN:
        raise BadConfiguration(
            f"set TUFT_SANDBOX_TOKEN: {_SHORTEST_TOKEN} characters or more, the same for the steps"
        )
    place = LocalSandbox(parsed.at_once)
    log.info("%s", place.check())
    bounds = Bounds(parsed.waiting, parsed.memory_mb, parsed.wall_s)
    # uvicorn ends well, and then raises the signal that it was sent once more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        make_app(place, token, bounds),
        host=parsed.host,
        port=parsed.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(parsed.wall_s) + 5,
    )


def _parser() -> argparse.ArgumentParser:
    bounds = Bounds()
    parser = argparse.ArgumentParser(
        prog="python -m tuft_components.sandbox.server",
        description="Runs Python programs in sandboxes, for steps that can't.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="0.0.0.0 in a pod")
    add("--port", type=int, default=PORT)
    add("--at-once", type=int, default=None, help="jobs; as many as there are CPUs")
    add("--waiting", type=int, default=bounds.waiting, help="jobs before others are refused")
    add("--memory-mb", type=int, default=bounds.memory_mb, help="the most that a job may have")
    add("--wall-s", type=float, default=bounds.wall_s, help="the most that a job may have")
    return parser


if __name__ == "__main__":
    sys.exit(main())
