"""A store as a file of JSON lines, and back: portable between versions and servers.

The first line says what it is, the last one how many keys there are and the SHA-256 of all lines
before; between, one line a key with its type, its value and when it expires. Bytes that are no
UTF-8 text are written as {"base64": …}.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tuft import __version__
from tuft.errors import ConfigError, InvalidRequest
from tuft.store import keys
from tuft.store.connection import (
    Arg,
    Connection,
    blob,
    integer,
    items,
    mapping,
    number,
    text,
    texts,
)
from tuft.store.schema import VERSION, read_version

FORMAT = "tuft-store"
FORMAT_VERSION = 1

_PATTERN = "tuft:*"
_AT_ONCE = 500


def key_names(connection: Connection) -> Iterator[str]:
    """All keys of the store; each once where nobody writes meanwhile."""
    seen: set[str] = set()
    cursor = 0
    while True:
        scanned = connection.call("SCAN", cursor, "MATCH", _PATTERN, "COUNT", _AT_ONCE)
        following, names = items(scanned)
        for name in texts(names):
            if name not in seen:
                seen.add(name)
                yield name
        cursor = integer(following)
        if cursor == 0:
            return


def export_store(connection: Connection, file: Path) -> int:
    """Write everything that is in the store to a new file; returns the number of keys.

    Nobody may write to the store meanwhile. It does not matter which version wrote it.

    Raises:
        InvalidRequest: the file is there already, or can't be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        if file.exists():
            raise InvalidRequest(f"{file} exists already; name another file, or remove it")
        # It holds the users' data.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            count = _write(connection, out.write)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise InvalidRequest(f"can't write {file}: {error.strerror}") from error
    return count


def import_store(connection: Connection, file: Path) -> int:
    """Fill an empty store from an export; returns the number of keys.

    The file is read and checked as a whole before anything is written.

    Raises:
        InvalidRequest: it is no export, not whole, or of a newer `tuft`; or the store is not empty.
    """
    schema = _check(file)
    if any(name != keys.SCHEMA for name in key_names(connection)):
        raise InvalidRequest(
            "the store is not empty; an export can only be read into an empty one: see "
            "`tuft store clear`"
        )
    # Whoever starts a service now is told that this did not end.
    connection.call("SET", keys.SCHEMA, "import")
    count = 0
    for entry in _entries(file):
        if entry["key"] != keys.SCHEMA:
            _restore(connection, entry)
        count += 1
    if schema is None:
        connection.call("DEL", keys.SCHEMA)
    else:
        connection.call("SET", keys.SCHEMA, schema)
    return count


def clear_store(connection: Connection) -> int:
    """Remove everything of the service's from the store; returns the number of keys."""
    connection.call("SET", keys.SCHEMA, "clear")
    names = [name for name in key_names(connection) if name != keys.SCHEMA]
    for start in range(0, len(names), _AT_ONCE):
        connection.call("UNLINK", *names[start : start + _AT_ONCE])
    connection.call("DEL", keys.SCHEMA)
    return len(names)


def _write(connection: Connection, write: Callable[[bytes], object]) -> int:
    digest, count = hashlib.sha256(), 0

    def line(value: dict[str, Any]) -> None:
        data = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        digest.update(data)
        write(data)

    line(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "schema": read_version(connection),
            "tuft": __version__,
            "exported_at": time.time(),
        }
    )
    for name in key_names(connection):
        kind, expires = connection.read(["TYPE", name], ["PEXPIRETIME", name])
        if text(kind) == "none":
            continue  # it expired since
        entry = {"key": name, "type": text(kind), "value": _READ[text(kind)](connection, name)}
        if integer(expires) >= 0:
            entry["expires_at_ms"] = integer(expires)
        line(entry)
        count += 1
    line({"end": True, "keys": count, "sha256": digest.hexdigest()})
    return count


def _check(file: Path) -> int | None:
    """Read an export to its end; returns the version of the store that it is of.

    Raises: InvalidRequest.
    """
    digest, count, last = hashlib.sha256(), 0, {}
    head: dict[str, Any] = {}
    for data in _lines(file):
        if head:
            count += 1
        last = _parse(file, data)
        head = head or last
        _check_head(file, head)
        if "end" in last:
            break
        digest.update(data)
    if last.get("keys") != count - 1 or last.get("sha256") != digest.hexdigest():
        raise InvalidRequest(f"{file} is not whole, or was changed: it can't be imported")
    schema = head["schema"]
    return None if schema is None else int(schema)


def _check_head(file: Path, head: dict[str, Any]) -> None:
    if head.get("format") != FORMAT:
        raise InvalidRequest(f"{file} is not an export of `tuft store export`")
    newest = head.get("format_version", 0) > FORMAT_VERSION or (head["schema"] or 0) > VERSION
    if newest:
        raise InvalidRequest(
            f"{file} is of a newer tuft ({head.get('tuft')}; store version {head['schema']}, "
            f"this one knows versions up to {VERSION}): import it with that one"
        )


def _entries(file: Path) -> Iterator[dict[str, Any]]:
    for data in _lines(file):
        entry = _parse(file, data)
        if "key" in entry:
            yield entry


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as source:
            yield from source
    except OSError as error:
        raise InvalidRequest(f"can't read {file}: {error.strerror}") from error


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InvalidRequest(f"{file} is not an export, or not whole: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{file} is not an export of `tuft store export`")
    return value


def _out(value: object) -> Any:
    data = blob(value)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _in(value: Any) -> Arg:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value)


def _read_string(connection: Connection, name: str) -> Any:
    return _out(connection.call("GET", name))


def _read_hash(connection: Connection, name: str) -> Any:
    return {field: _out(value) for field, value in _mapping(connection, name).items()}


def _mapping(connection: Connection, name: str) -> dict[str, bytes]:
    return mapping(connection.call("HGETALL", name))


def _read_set(connection: Connection, name: str) -> Any:
    return sorted(texts(connection.call("SMEMBERS", name)))


def _read_list(connection: Connection, name: str) -> Any:
    return [_out(value) for value in items(connection.call("LRANGE", name, 0, -1))]


def _read_sorted_set(connection: Connection, name: str) -> Any:
    flat = items(connection.call("ZRANGE", name, 0, -1, "WITHSCORES"))
    return [[text(flat[i]), number(flat[i + 1])] for i in range(0, len(flat), 2)]


def _read_stream(connection: Connection, name: str) -> Any:
    entries = items(connection.call("XRANGE", name, "-", "+"))
    about = _pairs(connection.call("XINFO", "STREAM", name))
    groups = []
    for found in items(connection.call("XINFO", "GROUPS", name)):
        group = _pairs(found)
        group_name = text(group["name"])
        unfinished = items(
            connection.call("XPENDING", name, group_name, "-", "+", len(entries) + 1)
        )
        groups.append(
            {
                "name": group_name,
                "last_id": text(group["last-delivered-id"]),
                "pending": [
                    [text(entry_id), text(consumer), integer(deliveries)]
                    for entry_id, consumer, _idle, deliveries in map(items, unfinished)
                ],
            }
        )
    return {
        "entries": [
            [text(entry_id), [_out(word) for word in items(words)]]
            for entry_id, words in map(items, entries)
        ],
        "last_id": text(about["last-generated-id"]),
        "groups": groups,
    }


def _pairs(reply: object) -> dict[str, object]:
    flat = items(reply)
    return {text(flat[i]): flat[i + 1] for i in range(0, len(flat), 2)}


_READ: dict[str, Callable[[Connection, str], Any]] = {
    "string": _read_string,
    "hash": _read_hash,
    "set": _read_set,
    "list": _read_list,
    "zset": _read_sorted_set,
    "stream": _read_stream,
}


def _restore(connection: Connection, entry: dict[str, Any]) -> None:
    name, value = str(entry["key"]), entry["value"]
    kind = entry["type"]
    if kind == "string":
        connection.call("SET", name, _in(value))
    elif kind == "hash":
        words = [word for field, item in value.items() for word in (field, _in(item))]
        _in_parts(connection, "HSET", name, words)
    elif kind == "set":
        _in_parts(connection, "SADD", name, value)
    elif kind == "list":
        _in_parts(connection, "RPUSH", name, [_in(item) for item in value])
    elif kind == "zset":
        words = [word for member, score in value for word in (repr(score), member)]
        _in_parts(connection, "ZADD", name, words)
    elif kind == "stream":
        _restore_stream(connection, name, value)
    else:
        raise ConfigError(f"{name} is of type {kind}, which this tuft can't import")
    if "expires_at_ms" in entry:
        connection.call("PEXPIREAT", name, entry["expires_at_ms"])


def _in_parts(connection: Connection, command: str, name: str, words: Sequence[Arg]) -> None:
    for start in range(0, len(words), 2 * _AT_ONCE):
        connection.call(command, name, *words[start : start + 2 * _AT_ONCE])


def _restore_stream(connection: Connection, name: str, value: dict[str, Any]) -> None:
    last_id = str(value["last_id"])
    for entry_id, words in value["entries"]:
        connection.call("XADD", name, entry_id, *[_in(word) for word in words])
    if last_id != "0-0" and last_id not in {entry_id for entry_id, _ in value["entries"]}:
        # Ids go on behind it, also where its entry was removed.
        connection.call("XADD", name, last_id, "id", "")
        connection.call("XDEL", name, last_id)
    for group in value["groups"]:
        connection.call("XGROUP", "CREATE", name, group["name"], group["last_id"], "MKSTREAM")
        for entry_id, consumer, deliveries in group["pending"]:
            claim = ["XCLAIM", name, group["name"], consumer, 0, entry_id]
            connection.call(*claim, "RETRYCOUNT", deliveries, "FORCE", "JUSTID")
