"""Which policies the engine has loaded: fetched in the background, least recently used out."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping

from tuft.checkpoints import Checkpoints
from tuft.checkpoints.handover import Handover
from tuft.contracts.policies import Content, is_of, policy_prefix
from tuft.errors import NotFound, TuftError
from tuft.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE
from tuft.sampling.background import Background
from tuft.sampling.engine import Engine

Waiter = Callable[[TuftError | None], None]
"""Told once: None where the policy is loaded, else why it can't be."""


class Policies:
    """At most `limit` policies are loaded; one that requests sample from is never dropped.

    While all are in use, the next one waits for a place (`full`); the caller takes no new
    requests meanwhile, so that places do become free.
    """

    def __init__(
        self,
        engine: Engine,
        checkpoints: Checkpoints,
        background: Background,
        limit: int,
        handover: Handover | None = None,
    ) -> None:
        """`handover`: where the trainer of this machine puts new policies, if it does."""
        self._engine = engine
        self._checkpoints = checkpoints
        self._background = background
        self._limit = limit
        self._handover = handover
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._waiters: dict[str, list[Waiter]] = {}
        self._fetching: set[str] = set()
        self._queue: deque[str] = deque()

    @property
    def full(self) -> bool:
        """Whether a policy waits for a place."""
        return bool(self._queue)

    def when_ready(self, policy: str, tell: Waiter) -> None:
        """Call `tell` when the policy is loaded (at once where it is), or can't be."""
        if policy in self._loaded:
            self._loaded.move_to_end(policy)
            tell(None)
            return
        self._waiters.setdefault(policy, []).append(tell)
        if policy not in self._fetching and policy not in self._queue:
            self._queue.append(policy)
            self._fetch_next()

    def enter(self, policy: str) -> None:
        """A request samples from it from now on."""
        self._users[policy] += 1

    def leave(self, policy: str) -> None:
        """One of those requests ended."""
        self._users[policy] -= 1
        if not self._users[policy]:
            del self._users[policy]
        self._fetch_next()

    def _fetch_next(self) -> None:
        while self._queue and self._make_place():
            policy = self._queue.popleft()
            self._fetching.add(policy)
            self._fetch(policy)

    def _make_place(self) -> bool:
        if len(self._loaded) + len(self._fetching) < self._limit:
            return True
        idle = next((policy for policy in self._loaded if policy not in self._users), None)
        if idle is None:
            return False
        del self._loaded[idle]
        self._engine.drop_policy(idle)
        return True

    def _fetch(self, policy: str) -> None:
        def read() -> dict[str, bytes]:
            prefix = policy_prefix(policy)
            manifest, files = self._checkpoints.read(prefix, [CONFIG_FILE, WEIGHTS_FILE])
            if not is_of(policy, manifest):
                raise NotFound(
                    f"{manifest.path} was replaced since this sampling session was created; "
                    "create a new session to sample from what is there now"
                )
            return files

        # New ones are in this machine's memory: not worth a thread, and a turn of the loop.
        handed = None if self._handover is None else self._handover.get(policy)
        if handed is not None:
            self._load(policy, handed.files)
        else:
            self._background.start(
                read,
                lambda files: self._load(policy, files),
                lambda error: self._end(policy, error),
            )

    def _load(self, policy: str, files: Mapping[str, Content]) -> None:
        try:
            self._engine.load_policy(policy, files)
        except TuftError as error:
            self._end(policy, error)
            return
        self._loaded[policy] = None
        self._end(policy, None)

    def _end(self, policy: str, error: TuftError | None) -> None:
        self._fetching.discard(policy)
        for tell in self._waiters.pop(policy, []):
            tell(error)
        self._fetch_next()
