"""The server process: limits for thousands of long polls, and a prompt end."""

from __future__ import annotations

import resource
import socket

import uvicorn
from fastapi import FastAPI

from tuft.api.waiters import ResultWaiters

_BACKLOG = 4096
_OPEN_FILES = 65_536
# The SDK drops idle connections after 90 s; it must not find one that we dropped first.
_KEEP_ALIVE_S = 120
_GRACE_S = 5


class Server(uvicorn.Server):
    """Answers the long polls that are held before it waits for open requests to end."""

    def __init__(self, app: FastAPI, waiters: ResultWaiters, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_GRACE_S,
                access_log=False,
                log_level="info",
                server_header=False,
            )
        )
        self._waiters = waiters

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._waiters.stop()
        await super().shutdown(sockets)


def raise_open_files() -> None:
    """Every long poll is a connection, and a connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
