"""`tuft-argo-plugin`: the sidecar's process. Argo starts it in the agent pod of a workflow."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tuft_components.argo_plugin.executions import Executions, Limits
from tuft_components.errors import ExitCode

if TYPE_CHECKING:
    import uvicorn

PORT = 14315
TOKEN_FILE = Path("/var/run/argo/token")

# Argo's client keeps connections open between its calls. One that we close just when it sends the
# next call would cost that call; so they stay open for longer than a requeue takes.
_KEEP_ALIVE_S = 300
_GRACE_S = 5
_LONGEST_WAIT_S = 25.0


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    if parsed.wait_s > _LONGEST_WAIT_S:
        print(f"tuft-argo-plugin: --wait-s must be at most {_LONGEST_WAIT_S}", file=sys.stderr)
        return int(ExitCode.BAD_CONFIGURATION)
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        print("tuft-argo-plugin: pip install 'tuft-pipelines[argo]' first", file=sys.stderr)
        return int(ExitCode.BAD_CONFIGURATION)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    # uvicorn ends well, and then raises the signal that it was sent once more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    import asyncio

    asyncio.run(_serve(parsed))
    return 0


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="tuft-argo-plugin",
        description="Executor plugin for Argo Workflows: runs steps of templates `plugin: {tuft: …}`.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="Argo's agent calls localhost")
    add("--port", type=int, default=PORT, help="0: a free one, which the log tells")
    add("--token-file", type=Path, default=TOKEN_FILE, help="what Argo's calls must bring")
    add("--workers", type=_at_least_1, default=limits.workers, help="steps at the same time")
    add("--wait-s", type=_seconds, default=limits.wait_s, help="that a call waits for its step")
    add("--tries", type=_at_least_1, default=limits.tries, help="of a step that ends with 75")
    add("--backoff-s", type=_seconds, default=limits.backoff_s, help="before the second try")
    add("--keep-s", type=_seconds, default=limits.keep_s, help="that results are kept")
    return parser


def _at_least_1(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds")
    return number


async def _serve(parsed: argparse.Namespace) -> None:
    from tuft_components.argo_plugin.app import make_app

    executions = Executions(
        Limits(
            workers=parsed.workers,
            wait_s=parsed.wait_s,
            tries=parsed.tries,
            backoff_s=parsed.backoff_s,
            keep_s=parsed.keep_s,
        )
    )
    listener = socket.create_server((parsed.host, parsed.port), backlog=128)
    logging.getLogger(__name__).info(
        "listening on http://%s:%d", parsed.host, listener.getsockname()[1]
    )
    server = _server(make_app(executions, parsed.token_file), executions)
    await server.serve(sockets=[listener])


def _server(app: object, executions: Executions) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Answers calls that wait, and ends the steps, before it waits for open calls to end."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await executions.close()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # an ASGI application
            loop="asyncio",
            http="h11",  # the steps' image has no other
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            access_log=False,
            log_config=None,
            server_header=False,
        )
    )
