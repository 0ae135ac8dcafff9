"""A service whose surroundings fail under real clients, and what the clients saw of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.clients import Trainee
from tests.faults.moves import SaveState
from tests.faults.tree import KEYS
from tests.faults.verdict import FINAL, differing, miscounted, repeat
from tests.waiting import wait_until

log = logging.getLogger(__name__)

_END_S = 300.0


@dataclass
class Seen:
    """What the clients of an outage saw."""

    answered: int = 0
    longest_pause_s: float = 0.0
    """Without any answer, for that one of them that waited longest."""

    def __str__(self) -> str:
        return f"{self.answered} answers, no error; longest pause {self.longest_pause_s:.1f} s"


@dataclass
class _Watch:
    """Sees how long each client is without an answer."""

    clients: Sequence[Trainee]
    seen: Seen = field(default_factory=Seen)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Seen:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seen.answered = sum(client.resolved for client in self.clients)

    def _run(self) -> None:
        resolved = [client.resolved for client in self.clients]
        since = [time.monotonic()] * len(resolved)
        while not self._stop.wait(0.05):
            now = time.monotonic()
            for index, client in enumerate(self.clients):
                self.seen.longest_pause_s = max(self.seen.longest_pause_s, now - since[index])
                if client.resolved != resolved[index]:
                    resolved[index], since[index] = client.resolved, now


def endure(
    url: str,
    disturb: Callable[[], None],
    *,
    tenants: Sequence[str] = ("alice",),
    seed: int = 1,
    before: int = 3,
    after: int = 3,
    objects: Path | None = None,
) -> Seen:
    """Clients at work, a disturbance, and clients that go on.

    Args:
        url: of the service.
        disturb: returns when the disturbance is over.
        tenants: a client each.
        before, after: turns of each client before the disturbance, and from its end on.
        objects: root of a local object store, where final weights are to be compared with those
            of an undisturbed run, which is done here, too; on one rank and with one tenant they
            are the same to the bit.

    Raises:
        AssertionError: a client got an error, a future hangs, or something was lost or applied
            twice.
    """
    clients = [Trainee(url, KEYS[tenant], seed + n) for n, tenant in enumerate(tenants)]
    for client in clients:
        client.start()
    with _Watch(clients) as seen:
        _turns(clients, before)
        disturb()
        _turns(clients, after)
        for client in clients:
            client.end()
        for client in clients:
            client.join(_END_S)
    log.warning("%s", seen)
    problems = [client.failure for client in clients if client.failure is not None]
    assert not problems, "\n".join(problems)
    for client in clients:
        assert client.submitted == client.resolved
        assert client.journal is not None
        client.journal.do(SaveState(FINAL))
        problems += miscounted(client.journal)
    for client, tenant in zip(clients, tenants, strict=True):
        if objects is not None:
            assert client.journal is not None
            again = repeat(url, KEYS[tenant], client.seed, client.journal)
            exact = len(clients) == 1
            problems += differing(client.journal, again, objects, objects, exact=exact)
    assert not problems, "\n".join(problems)
    return seen


def _turns(clients: Sequence[Trainee], more: int) -> None:
    """Wait until each client did so many more turns, or has failed."""
    wanted = [client.iterations + more for client in clients]

    def there() -> bool:
        return any(client.failure for client in clients) or all(
            client.iterations >= turns for client, turns in zip(clients, wanted, strict=True)
        )

    wait_until(there, _END_S, "clients to go on")
