"""The store: journal and state of the service on one Valkey or Redis."""

from __future__ import annotations

import redis

from tuft.store.checkpoints import CheckpointIndex
from tuft.store.connection import Connection
from tuft.store.disposal import Disposal
from tuft.store.events import Events
from tuft.store.futures import Futures
from tuft.store.journal import Journal
from tuft.store.ledger import Ledger
from tuft.store.queues import Queues
from tuft.store.runs import Runs
from tuft.store.samplers import Samplers
from tuft.store.samples import SampleQueue
from tuft.store.schema import bring_up_to_date
from tuft.store.server import check_server
from tuft.store.sessions import Sessions
from tuft.store.traffic import Traffic
from tuft.store.workers import Workers


class Store:
    """All parts over one client. Cheap to make, safe to share between threads.

    Before anything else a store of an older version is migrated; where a newer `tuft` wrote it,
    every method raises ConfigError.

    Every method may raise `tuft.errors.Unavailable`. Then the change may or may not have been
    made; every change may be repeated.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._connection = connection = Connection(client, first=bring_up_to_date)
        self.sessions = Sessions(connection)
        self.runs = Runs(connection)
        self.journal = Journal(connection)
        self.futures = Futures(connection)
        self.samplers = Samplers(connection)
        self.samples = SampleQueue(connection)
        self.ledger = Ledger(connection)
        self.queues = Queues(connection)
        self.workers = Workers(connection)
        self.checkpoints = CheckpointIndex(connection)
        self.events = Events(connection)
        self.disposal = Disposal(connection)
        self.traffic = Traffic(connection)

    def ping(self) -> None:
        """Whether it is there and can be used. Raises: Unavailable, ConfigError."""
        self._connection.call("PING")

    def check_server(self) -> list[str]:
        """Warnings about the settings of a server that someone else set up.

        Raises:
            ConfigError: it can't be the store, and why.
            Unavailable: it can't be reached.
        """
        return check_server(self._connection)
