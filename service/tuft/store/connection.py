"""The connection to Valkey or Redis: the one place that touches redis-py's loose types.

Of redis-py the connections are used and not the client above them, which takes twice the time
of a small command. Replies are what RESP2 sends (int, bytes, None, list), and the four readers
below turn them into Python types.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import redis
import redis.exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from tuft.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

Arg = bytes | str | int | float

MAX_BLOCK_MS = 5_000
"""Blocking reads are cut to this, so that their sockets can have a time-out too."""

_SOCKET_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 3.0
# Where the network swallows packets, nobody is told: whoever waits for longer tries again.
_BLOCKING_MARGIN_S = 5.0
# Beside connection errors, what a server says while it starts, fails over or has no memory or
# disk left: the same request may succeed later.
_AWAY_CODES = frozenset(
    {"LOADING", "OOM", "MISCONF", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"}
    | {"BUSY", "NOREPLICAS", "UNKILLABLE"}
)


def connect(url: str) -> redis.Redis:
    """A thread-safe client of the server at a redis://, rediss:// or unix:// URL.

    Nothing is sent before the first command. A command that finds no connection is tried again
    for about a second (all of the store's commands may be repeated), a time-out is not.
    """
    retry = Retry(
        ExponentialWithJitterBackoff(base=0.02, cap=0.5),
        retries=4,
        supported_errors=(redis.exceptions.ConnectionError,),
    )
    options: dict[str, Any] = {} if url.startswith("unix://") else {"socket_keepalive": True}
    client: redis.Redis = redis.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=_SOCKET_TIMEOUT_S,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        max_connections=1024,
        retry=retry,
        **options,
    )
    return client


@dataclass(frozen=True)
class Script:
    """A Lua script, run by its digest and sent only where the server does not know it.

    Scripts that take nothing new in, but finish what is there, carry the flag `allow-oom`: a
    server at its memory limit then refuses new work (Unavailable) and can still be drained.
    """

    name: str
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # SHA-1 is the protocol's name of a script, not a safeguard.
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


@cache
def script(name: str) -> Script:
    """The script `scripts/{name}.lua` of this package."""
    return Script(name, (files(__package__) / "scripts" / f"{name}.lua").read_text())


class Connection:
    """Typed commands, scripts and transactions; errors of the server's absence become one.

    Args:
        first: run once, before anything else that is asked of this connection. Where it raises, so
            does what was asked, and it is run again the next time.

    Raises (every method):
        Unavailable: the server is away, loading, read-only, or out of memory or disk.
    """

    def __init__(
        self, client: redis.Redis, first: Callable[[Connection], None] | None = None
    ) -> None:
        self._first = first
        self._opening = threading.RLock()
        self._inside = False
        pool = client.connection_pool
        self._pool = _Pool(pool)
        # A lost reply of a blocking read is the caller's to handle: no silent second try.
        blocking = dict(
            pool.connection_kwargs,
            socket_timeout=MAX_BLOCK_MS / 1000 + _BLOCKING_MARGIN_S,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), retries=0),
        )
        self._blocking = _Pool(
            redis.ConnectionPool(
                connection_class=pool.connection_class,
                max_connections=pool.max_connections,
                **blocking,
            )
        )

    def call(self, *command: Arg) -> object:
        """Run one command."""
        self._open()
        with _translated():
            return self._pool.exchange([command])[0]

    def block(self, *command: Arg) -> object:
        """Run one command that may block for up to MAX_BLOCK_MS; it is tried once only."""
        self._open()
        with _translated():
            return self._blocking.exchange([command])[0]

    def run(self, code: Script, keys: Sequence[str], args: Sequence[Arg] = ()) -> object:
        """Run a script atomically."""
        self._open()
        with _translated():
            try:
                return self._pool.exchange([("EVALSHA", code.sha, len(keys), *keys, *args)])[0]
            except redis.exceptions.NoScriptError:
                return self._pool.exchange([("EVAL", code.text, len(keys), *keys, *args)])[0]

    def read(self, *commands: Sequence[Arg]) -> list[object]:
        """Run several reading commands in one go, not as one; their replies in order.

        Not a transaction, since a server at its memory limit takes none.
        """
        self._open()
        with _translated():
            return self._pool.exchange(commands)

    def write(self, *commands: Sequence[Arg]) -> list[object]:
        """Run several commands as one (MULTI, EXEC); their replies in order."""
        self._open()
        with _translated():
            replies = items(self._pool.exchange([("MULTI",), *commands, ("EXEC",)])[-1])
            _raise_first(replies)
            return replies

    def _open(self) -> None:
        if self._first is not None:
            self._do_first()

    def _do_first(self) -> None:
        # Other threads wait here; `first` itself comes by here, too.
        with self._opening:
            if self._first is None or self._inside:
                return
            self._inside = True
            try:
                self._first(self)
                self._first = None
            finally:
                self._inside = False


class _Pool:
    """Connections that are open and not in use, for any thread."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool: Any = pool
        self._free: deque[Any] = deque()

    def exchange(self, commands: Sequence[Sequence[Arg]]) -> list[object]:
        """Send commands together, and return their replies; the first error is raised."""
        connection = self._take()
        try:
            # Here and not below, since connecting has retries of its own.
            connection.connect()
            replies: list[object] = connection.retry.call_with_retry(
                lambda: _exchange(connection, commands), lambda _error: connection.disconnect()
            )
        finally:
            self._free.append(connection)
        _raise_first(replies)
        return replies

    def _take(self) -> Any:
        try:
            connection = self._free.pop()
        except IndexError:
            return self._pool.make_connection()
        try:
            # Closed by the server, or with something in it that nobody asked for.
            if connection.is_connected and connection.can_read():
                connection.disconnect()
        except redis.exceptions.RedisError:
            connection.disconnect()
        return connection


def _exchange(connection: Any, commands: Sequence[Sequence[Arg]]) -> list[object]:
    replies: list[object] = []
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except redis.exceptions.ResponseError as error:
                replies.append(error)
    except BaseException:
        # Whatever it was, also an interruption: replies that were not read would be those of the
        # next command.
        connection.disconnect()
        raise
    return replies


def _raise_first(replies: list[object]) -> None:
    for reply in replies:
        if isinstance(reply, redis.exceptions.RedisError):
            raise reply


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise Unavailable(f"the store can't be reached now: {error}") from error
    except redis.exceptions.ResponseError as error:
        code = str(error).split(" ", 1)[0]
        out_of_memory = isinstance(error, redis.exceptions.OutOfMemoryError)
        read_only = isinstance(error, redis.exceptions.ReadOnlyError)
        if out_of_memory or read_only or code in _AWAY_CODES:
            raise Unavailable(f"the store takes no writes now: {error}") from error
        raise


def integer(reply: object) -> int:
    """A reply that is a number, or the text of one."""
    if isinstance(reply, int):
        return reply
    return int(blob(reply))


def number(reply: object) -> float:
    """A reply that is a score or another float."""
    return float(reply) if isinstance(reply, int) else float(blob(reply))


def blob(reply: object) -> bytes:
    """A reply that is a string of bytes."""
    if not isinstance(reply, bytes):
        raise TypeError(f"expected bytes from the store, got {type(reply).__name__}")
    return reply


def text(reply: object) -> str:
    """A reply that is UTF-8 text."""
    return blob(reply).decode()


def items(reply: object) -> list[object]:
    """A reply that is a list; None (nothing there) is an empty one."""
    if reply is None:
        return []
    if not isinstance(reply, list):
        raise TypeError(f"expected a list from the store, got {type(reply).__name__}")
    return reply


def texts(reply: object) -> list[str]:
    """A reply that is a list of texts."""
    return [text(item) for item in items(reply)]


def mapping(reply: object) -> dict[str, bytes]:
    """A flat reply of names and values (HGETALL)."""
    flat = items(reply)
    return {text(flat[i]): blob(flat[i + 1]) for i in range(0, len(flat), 2)}
