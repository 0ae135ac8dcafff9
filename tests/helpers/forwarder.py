"""A TCP forwarder, so that tests can take a real server away and give it back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Forwarder:
    """Forwards connections of `port` to `target` (host:port) on 127.0.0.1.

    `cut_replies_after` bytes of a connection's replies, it is closed (None: never).
    """

    def __init__(self, target: str, port: int) -> None:
        host, _, target_port = target.partition(":")
        self._target = (host, int(target_port))
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = [self._listener]
        self.cut_replies_after: int | None = None

    def serve(self) -> None:
        """Accept until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                limit = self.cut_replies_after
                for arguments in ((client, server, None), (server, client, limit)):
                    threading.Thread(target=_pump, args=arguments, daemon=True).start()

    def close(self) -> None:
        for item in self._open:
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()


@contextmanager
def forwarding(target: str, port: int) -> Iterator[Forwarder]:
    """A running forwarder; everything is closed at the end."""
    forwarder = Forwarder(target, port)
    thread = threading.Thread(target=forwarder.serve, daemon=True)
    thread.start()
    try:
        yield forwarder
    finally:
        forwarder.close()
        thread.join(timeout=5)


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    passed = 0
    with suppress(OSError):
        while data := source.recv(65536):
            if limit is not None and passed + len(data) > limit:
                sink.sendall(data[: limit - passed])
                break
            sink.sendall(data)
            passed += len(data)
    for item in (source, sink):
        with suppress(OSError):
            item.shutdown(socket.SHUT_RDWR)
