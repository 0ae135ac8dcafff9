"""Who may still read a checkpoint that was deleted, or has expired.

Who is about to read one enters first and then looks again whether it is there; who removes one
takes it from the users first and then looks who is entered. So none is missed.
"""

from __future__ import annotations

import time

from tuft.contracts.operations import Operation
from tuft.errors import NotFound
from tuft.store import Store
from tuft.store.checkpoints import Place

HEARD_OF_S = 600.0
"""A session that was not heard of for this long is gone; the SDK is heard of every ten seconds."""
_ENTERED_S = 600.0
"""What entered and never came has gone. Longer than any request lasts."""

_TIDY_EVERY = 100
"""Who has gone is forgotten after so many entered, too, and not only at the end."""

_SESSION, _OPERATION = "session", "operation"


def session_user(session_id: str) -> str:
    """The client of a session, which samples from the checkpoint."""
    return f"{_SESSION}/{session_id}"


def operation_user(run_id: str, seq_id: int) -> str:
    """An operation that loads the checkpoint into a training run."""
    return f"{_OPERATION}/{run_id}/{seq_id}"


class Uses:
    """The users of checkpoints, as the store knows them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def enter(self, place: Place, user: str) -> None:
        """From now on this may read the files; the name is that of a function of this module."""
        if self._store.checkpoints.enter_user(place, user, time.time()) % _TIDY_EVERY == 0:
            for entered, since in self._store.checkpoints.users(place).items():
                self._look_at(place, entered, since)

    def of(self, place: Place) -> str | None:
        """Who uses it, in words; None where nobody does. Those who have gone are forgotten."""
        users = self._store.checkpoints.users(place).items()
        found = (self._look_at(place, user, since) for user, since in users)
        return next((name for name in found if name is not None), None)

    def _look_at(self, place: Place, user: str, since: float) -> str | None:
        kind, _, name = user.partition("/")
        # A clock that was set back must not keep it for ever.
        may_come = abs(time.time() - since) < _ENTERED_S
        found = self._session(name) if kind == _SESSION else self._op(name, may_come)
        if found is None:
            self._store.checkpoints.leave_user(place, user)
        return found

    def _session(self, session_id: str) -> str | None:
        if self._store.sessions.finished(session_id) is not None:
            return None
        seen = self._store.sessions.last_seen(session_id)
        if seen is None or seen < time.time() - HEARD_OF_S:
            return None
        return f"session {session_id}, which samples from it"

    def _op(self, name: str, may_come: bool) -> str | None:
        """Until it has failed, or a snapshot holds what it loaded, it may be done (again)."""
        run_id, _, last = name.rpartition("/")
        seq_id = int(last)
        in_words = f"training run {run_id}, which is loading it"
        try:
            status = self._store.runs.status(run_id)
            if not self._store.runs.get(run_id).live:
                return None
            if status.snapshot is not None and status.snapshot.seq_id >= seq_id:
                return None
            entries = self._store.journal.entries(run_id, seq_id - 1, 1)
        except NotFound:
            return in_words if may_come else None
        if not entries:
            return in_words if may_come and seq_id > status.cursor else None
        if not isinstance(entries[0], Operation):
            return None
        return None if self._store.journal.failure(run_id, seq_id) is not None else in_words
