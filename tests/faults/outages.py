"""A service whose surroundings fail under real clients, and what the clients saw of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.faults.clients import Trainee
from tests.faults.moves import SaveState
from tests.faults.tree import KEYS
from tests.faults.verdict import FINAL, differing, miscounted, repeat
from tests.waiting import wait_until
from tuft.objects import ObjectStore

log = logging.getLogger(__name__)

_END_S = 300.0


class Work:
    """Clients at work, and what they see: `answered`, and how long one was without an answer."""

    def __init__(self, clients: Sequence[Trainee]) -> None:
        self.clients = clients
        self.longest_pause_s = 0.0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._see_pauses, daemon=True)

    @property
    def answered(self) -> int:
        return sum(client.progress.answered for client in self.clients)

    def turns(self, more: int) -> None:
        """Wait until each client did so many more turns of its loop, or one has failed."""
        wanted = [client.iterations + more for client in self.clients]

        def there() -> bool:
            return any(client.failure for client in self.clients) or all(
                client.iterations >= turns
                for client, turns in zip(self.clients, wanted, strict=True)
            )

        wait_until(there, _END_S, "clients to go on")

    def begin(self) -> None:
        for client in self.clients:
            client.start()
        self._watch.start()

    def end(self) -> None:
        for client in self.clients:
            client.end()
        for client in self.clients:
            client.join(_END_S)
        self._stop.set()
        self._watch.join()
        log.warning("%d answers; longest pause %.1f s", self.answered, self.longest_pause_s)

    def _see_pauses(self) -> None:
        resolved = [client.progress.answered for client in self.clients]
        since = [time.monotonic()] * len(resolved)
        while not self._stop.wait(0.05):
            now = time.monotonic()
            for index, client in enumerate(self.clients):
                self.longest_pause_s = max(self.longest_pause_s, now - since[index])
                if client.progress.answered != resolved[index]:
                    resolved[index], since[index] = client.progress.answered, now


@contextmanager
def enduring(
    url: str,
    *,
    tenants: Sequence[str] = ("alice",),
    seed: int = 1,
    objects: ObjectStore | None = None,
) -> Iterator[Work]:
    """Clients at work before, in and after the block, in which something happens to the service.

    Args:
        url: of the service.
        tenants: a client each.
        objects: of the service, where results and final weights are to be compared with those of
            an undisturbed run, which is done here, too: with one tenant on one rank they are the
            same to the bit. (Several are the campaign's matter.)

    Raises:
        AssertionError: a client got an error, a future hangs, or something was lost or applied
            twice.
    """
    clients = [Trainee(url, KEYS[tenant], seed + n) for n, tenant in enumerate(tenants)]
    work = Work(clients)
    work.begin()
    try:
        work.turns(3)
        yield work
        work.turns(3)
    finally:
        work.end()
    problems = [client.failure for client in clients if client.failure is not None]
    assert not problems, "\n".join(problems)
    for client, tenant in zip(clients, tenants, strict=True):
        assert client.progress.asked == client.progress.answered
        assert client.journal is not None
        client.journal.do(SaveState(FINAL))
        problems += miscounted(client.journal)
        if objects is not None:
            again = repeat(url, KEYS[tenant], client.seed, client.journal)
            problems += differing(client.journal, again, objects, objects, exact=True)
    assert not problems, "\n".join(problems)
