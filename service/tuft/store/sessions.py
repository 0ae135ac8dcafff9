"""Sessions of clients, and which runs and samplers they made."""

from __future__ import annotations

import time

from tuft.contracts.records import SessionRecord
from tuft.errors import Conflict, NotFound, QueueFull
from tuft.store import keys
from tuft.store.connection import Connection, blob, items, number, script, text, texts

MAX_SESSIONS = 10_000
"""Sessions kept per tenant; beyond, those not heard of for an hour make room, oldest first."""

_QUIET_S = 3600
_FORGOTTEN_S = 30 * 24 * 3600


class Sessions:
    """Sessions; one not heard of for 30 days is forgotten. Its runs are not."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, session: SessionRecord) -> None:
        """Add a session; repeating the same changes nothing.

        Raises:
            Conflict: another session has that id.
            QueueFull: MAX_SESSIONS of the tenant were heard of within the last hour.
        """
        reply = self._connection.run(
            script("session_create"),
            [
                keys.session(session.session_id),
                keys.tenant_sessions(session.tenant),
                keys.tenant_sessions_seen(session.tenant),
            ],
            [
                session.session_id,
                session.model_dump_json(),
                session.created_at,
                time.time(),
                MAX_SESSIONS,
                _QUIET_S,
                _FORGOTTEN_S,
                keys.SESSION_PREFIX,
                keys.SESSION_RUNS_PREFIX,
                keys.SESSION_SAMPLERS_PREFIX,
                keys.SAMPLER_PREFIX,
            ],
        )
        if text(reply) == "conflict":
            raise Conflict(f"session {session.session_id} exists already")
        if text(reply) == "full":
            raise QueueFull(f"{MAX_SESSIONS} sessions were active within the last hour")

    def get(self, session_id: str) -> SessionRecord:
        """Raises: NotFound."""
        record, project = items(
            self._connection.call("HMGET", keys.session(session_id), "record", "project")
        )
        if record is None:
            raise _no_session(session_id)
        session = SessionRecord.model_validate_json(blob(record))
        if project is None:
            return session
        return session.model_copy(update={"project_id": text(project)})

    def heartbeat(self, session_id: str) -> None:
        """Note that the client lives. Raises: NotFound."""
        tenant = self.get(session_id).tenant
        # GT and XX: a late heartbeat neither turns back time nor brings a forgotten one back.
        self._connection.call(
            "ZADD", keys.tenant_sessions_seen(tenant), "XX", "GT", time.time(), session_id
        )

    def last_seen(self, session_id: str) -> float | None:
        """When the client was last heard of; None for a session that is forgotten."""
        try:
            tenant = self.get(session_id).tenant
        except NotFound:
            return None
        seen = self._connection.call("ZSCORE", keys.tenant_sessions_seen(tenant), session_id)
        return None if seen is None else number(seen)

    def finish(self, session_id: str, reason: str) -> None:
        """Note why the client ended; the first reason stays. Raises: NotFound."""
        self.get(session_id)
        self._connection.call("HSETNX", keys.session(session_id), "finished", reason)

    def finished(self, session_id: str) -> str | None:
        """The reason given to `finish`, None where there is none (yet)."""
        reason = self._connection.call("HGET", keys.session(session_id), "finished")
        return None if reason is None else text(reason)

    def set_project(self, session_id: str, project_id: str) -> None:
        """Move the session to a project. Raises: NotFound."""
        self.get(session_id)
        self._connection.call("HSET", keys.session(session_id), "project", project_id)

    def run_ids(self, session_id: str) -> list[str]:
        """Training runs made in the session, oldest first."""
        return texts(self._connection.call("ZRANGE", keys.session_runs(session_id), 0, -1))

    def sampler_ids(self, session_id: str) -> list[str]:
        """Samplers made in the session, oldest first."""
        return texts(self._connection.call("ZRANGE", keys.session_samplers(session_id), 0, -1))

    # Last, since it hides the type of its name from what follows in the class.
    def list(self, tenant: str, limit: int, offset: int) -> list[str]:
        """A page of the tenant's session ids, newest first."""
        if limit <= 0:
            return []
        index = keys.tenant_sessions(tenant)
        page = self._connection.call("ZRANGE", index, offset, offset + limit - 1, "REV")
        return texts(page)


def _no_session(session_id: str) -> NotFound:
    return NotFound(f"no session {session_id}")
