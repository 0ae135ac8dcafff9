"""A proxy before a real S3 server, so that tests can make it slow, deaf or absent."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Trouble = Literal["none", "away", "deaf", "slow", "third", "third-cut"]
"""What happens to requests: nothing; the connection is closed at once; no answer ever comes;
each takes a second longer; every third is answered 503, or with half of its answer."""

_SLOW_S = 1.0
_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy(ThreadingHTTPServer):
    """Forwards requests of `endpoint` to a server (host:port), as they are."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.trouble: Trouble = "none"
        self.hit = 0
        """Requests that had trouble."""
        self.numbers = itertools.count(1)
        self.closing = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_expect_100(self) -> bool:
        return True

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _forward(self) -> None:
        trouble = self.server.trouble
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if trouble.startswith("third") and next(self.server.numbers) % 3:
            trouble = "none"
        if trouble != "none":
            self.server.hit += 1
        if trouble == "deaf":
            while self.server.trouble == "deaf" and not self.server.closing.wait(0.1):
                pass
        if trouble in ("away", "deaf"):
            self.close_connection = True
            return
        if trouble == "slow":
            time.sleep(_SLOW_S)
        if trouble == "third":
            self._answer(503, [("Content-Type", "application/xml")], _BUSY)
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            # With their own Host: it is what the client has signed.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            self._answer(reply.status, reply.getheaders(), reply.read(), cut=trouble == "third-cut")
        finally:
            connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(body)
        if status != 204:
            self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


@contextmanager
def s3_proxy(target: str) -> Iterator[Proxy]:
    """A running proxy."""
    proxy = Proxy(target)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.shutdown()
        thread.join()
        with suppress(OSError):
            proxy.server_close()
