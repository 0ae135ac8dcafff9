"""A TCP forwarder, so that tests can take a real server away and give it back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Forwarder:
    """Forwards connections of `port` to `target` (host:port) on 127.0.0.1.

    `cut_replies_after` bytes of a connection's replies, it is closed (None: never).
    `lose_reply_to`: the next request that has these bytes gets to the server, and its
    connection is closed when the answer comes.
    """

    def __init__(self, target: str, port: int) -> None:
        host, _, target_port = target.partition(":")
        self._target = (host, int(target_port))
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = [self._listener]
        self.cut_replies_after: int | None = None
        self.lose_reply_to: bytes | None = None

    def serve(self) -> None:
        """Accept until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                limit = self.cut_replies_after
                lost = threading.Event()
                threading.Thread(
                    target=self._pump_requests, args=(client, server, lost), daemon=True
                ).start()
                threading.Thread(
                    target=_pump_replies, args=(server, client, limit, lost), daemon=True
                ).start()

    def _pump_requests(
        self, client: socket.socket, server: socket.socket, lost: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.lose_reply_to is not None and self.lose_reply_to in data:
                    self.lose_reply_to = None
                    lost.set()
                server.sendall(data)
        _shut(client, server)

    def cut(self) -> None:
        """Close all connections; new ones are forwarded again."""
        _shut(*self._open[1:])

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


def _pump_replies(
    server: socket.socket, client: socket.socket, limit: int | None, lost: threading.Event
) -> None:
    passed = 0
    with suppress(OSError):
        while (data := server.recv(65536)) and not lost.is_set():
            if limit is not None and passed + len(data) > limit:
                client.sendall(data[: limit - passed])
                break
            client.sendall(data)
            passed += len(data)
    _shut(server, client)


def _shut(*sockets: socket.socket) -> None:
    for item in sockets:
        with suppress(OSError):
            item.shutdown(socket.SHUT_RDWR)
