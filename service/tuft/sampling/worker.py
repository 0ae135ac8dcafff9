"""The sampler's loop: from the queue to the engine, and outcomes back.

The loop never waits for the network while sequences run: policies are fetched and results
written by background jobs, and the queue is asked without blocking. What this worker holds
when it dies is handed to its successor, which samples it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from tuft.config import LimitsConfig
from tuft.contracts.operations import FutureRecord
from tuft.contracts.records import Disposable
from tuft.contracts.wire import SampleResult, encode_sample_response
from tuft.errors import (
    DamagedCheckpoint,
    InvalidRequest,
    NotFound,
    TuftError,
    Unavailable,
)
from tuft.objects import ObjectStore
from tuft.sampling.background import Background
from tuft.sampling.engine import Engine
from tuft.sampling.policies import Policies
from tuft.store import ClaimedSample, Outcome, Store

log = logging.getLogger(__name__)

# A request that was there when its worker died twice runs alone; after the third time it fails.
_ALONE_AT_DELIVERY = 3
_IDLE_WAIT_MS = 500
_BUSY_WAIT_MS = 20
_SIGN_OF_LIFE_S = 3.0
_RECLAIM_EVERY_S = 10.0
_STORE_RETRY_S = 1.0
_USER_ERRORS = (InvalidRequest, NotFound, DamagedCheckpoint)


class Worker:
    """One consumer of a base model's sample queue, with one engine.

    Args:
        consumer: this worker's name in the queue; a successor that takes over its unfinished
            requests at once has the same.
    """

    def __init__(
        self,
        *,
        base_model: str,
        consumer: str,
        engine: Engine,
        store: Store,
        objects: ObjectStore,
        policies: Policies,
        background: Background,
        limits: LimitsConfig,
    ) -> None:
        self._base_model = base_model
        self._consumer = consumer
        self._engine = engine
        self._store = store
        self._objects = objects
        self._policies = policies
        self._background = background
        self._limits = limits
        self._held: dict[str, ClaimedSample] = {}
        """Claimed and not completed, by request id."""
        self._begun: set[str] = set()
        """Those of them that the engine works on, or whose outcome is being stored."""
        self._ready: deque[ClaimedSample] = deque()
        """Their policies are loaded (and kept); they go to the engine in this order."""
        self._alone: str | None = None
        """The request that the engine may work on alone now."""
        self._reclaim_at = 0.0
        self._claim_at = 0.0
        self._alive_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. What was claimed by then is the next worker's, unless
        `hand_back` and `finish` are called."""
        while not stop.is_set():
            if not self._take_work():
                # Nothing could be claimed and nothing runs: don't spin.
                stop.wait(_BUSY_WAIT_MS / 1000)
            self._background.poll()
            self._feed()
            self._step()

    def _step(self) -> None:
        if self._engine.load:
            for finished in self._engine.step():
                self._leave(self._held[finished.request_id], finished.outcome)

    def hand_back(self, heir: str | None = None) -> None:
        """Let others have what this worker claimed and did not begin.

        From now on it has the rest under the name `heir`, its own by default; with another one
        its successor may start before it ends.
        """
        self._ready.clear()
        heir = heir or self._consumer
        keep = [self._held[name].entry_id for name in self._begun]
        try:
            back = self._store.samples.release(self._base_model, self._consumer, keep, heir)
        except Unavailable as error:
            log.warning("the next sampler finds what this one had: %s", error.message)
        else:
            log.info("%d requests are handed back, %d run", back, len(keep))
            self._consumer = heir

    def finish(self, deadline: float) -> None:
        """Go on with what was begun until it is done, or `deadline` (of the monotonic clock) is
        over; then hand back the rest."""
        while self._begun and time.monotonic() < deadline:
            self._background.poll()
            self._step()
            if not self._engine.load:
                time.sleep(_BUSY_WAIT_MS / 1000)
        if self._begun:
            self._begun.clear()
            self.hand_back()

    # From the queue

    def _take_work(self) -> bool:
        """Claim what there is room for; False where it neither ran nor waited for anything."""
        now = time.monotonic()
        if now < self._claim_at:
            return bool(self._engine.load)
        try:
            if now >= self._reclaim_at:
                self._reclaim(now)
            return self._claim(now)
        except Unavailable as error:
            # The lost reply may have named requests: they are this consumer's, so ask again.
            log.warning("the store is away: %s", error.message)
            self._reclaim_at = 0.0
            self._claim_at = time.monotonic() + _STORE_RETRY_S
            return bool(self._engine.load)

    def _reclaim(self, now: float) -> None:
        holding = [claimed.entry_id for claimed in self._held.values()]
        for claimed in self._store.samples.reclaim(self._base_model, self._consumer, holding):
            log.info("%s: delivery %d", claimed.op.request_id, claimed.deliveries)
            self._accept(claimed)
        self._reclaim_at = now + _RECLAIM_EVERY_S

    def _claim(self, now: float) -> bool:
        room = self._engine.capacity - self._engine.load
        if self._policies.full or self._ready or self._alone is not None:
            room = 0
        if room <= 0:
            if now >= self._alive_at:
                self._store.samples.claim(self._base_model, self._consumer, 0, 0)
                self._alive_at = now + _SIGN_OF_LIFE_S
            return bool(self._engine.load)
        wait_ms = 0
        if not self._engine.load:
            wait_ms = _BUSY_WAIT_MS if self._background.pending else _IDLE_WAIT_MS
        for claimed in self._store.samples.claim(self._base_model, self._consumer, room, wait_ms):
            self._accept(claimed)
        self._alive_at = now + _SIGN_OF_LIFE_S
        return True

    def _accept(self, claimed: ClaimedSample) -> None:
        self._held[claimed.op.request_id] = claimed
        if claimed.deliveries > _ALONE_AT_DELIVERY:
            self._fail(
                claimed,
                "the sampler died three times while it worked on this request, the last time "
                "on nothing else; it is not tried again",
                "server",
            )
        else:
            self._prepare(claimed)

    # To the engine

    def _prepare(self, claimed: ClaimedSample) -> None:
        policy = claimed.op.policy
        if policy is None:
            self._ready.append(claimed)
            return

        def tell(error: TuftError | None) -> None:
            if error is None:
                self._policies.enter(policy)
                self._ready.append(claimed)
            else:
                self._finish(claimed, error)

        self._policies.when_ready(policy, tell)

    def _feed(self) -> None:
        """Submit what is ready. One that runs alone waits until the engine is empty."""
        while self._ready and self._alone is None:
            if self._ready[0].deliveries == _ALONE_AT_DELIVERY:
                if self._engine.load:
                    return
                self._alone = self._ready[0].op.request_id
            claimed = self._ready.popleft()
            self._begun.add(claimed.op.request_id)
            try:
                self._engine.submit(claimed.op)
            except TuftError as error:
                self._leave(claimed, error)

    # Back

    def _leave(self, claimed: ClaimedSample, outcome: SampleResult | TuftError) -> None:
        """It is no longer in the engine."""
        if claimed.op.policy is not None:
            self._policies.leave(claimed.op.policy)
        if self._alone == claimed.op.request_id:
            self._alone = None
        self._finish(claimed, outcome)

    def _finish(self, claimed: ClaimedSample, outcome: SampleResult | TuftError) -> None:
        if isinstance(outcome, TuftError):
            category = "user" if isinstance(outcome, _USER_ERRORS) else "server"
            self._fail(claimed, outcome.message, category)
        else:
            self._deliver(claimed, lambda: self._outcome(claimed, outcome))

    def _fail(self, claimed: ClaimedSample, message: str, category: str) -> None:
        log.warning("%s failed: %s", claimed.op.request_id, message)
        future = self._future(claimed, status="failed", error=message, category=category)
        self._deliver(claimed, lambda: Outcome(future, None))

    def _deliver(self, claimed: ClaimedSample, outcome: Callable[[], Outcome]) -> None:
        def job() -> None:
            self._store.samples.complete(
                claimed,
                outcome(),
                result_ttl_s=self._limits.result_ttl_s,
                max_kept=self._limits.max_kept_results,
            )

        def done(_: None) -> None:
            del self._held[claimed.op.request_id]
            self._begun.discard(claimed.op.request_id)

        def failed(error: TuftError) -> None:
            self._fail(claimed, f"the result can't be stored: {error.message}", "server")

        self._begun.add(claimed.op.request_id)
        self._background.start(job, done, failed)

    def _outcome(self, claimed: ClaimedSample, result: SampleResult) -> Outcome:
        body = encode_sample_response(result)
        if len(body) <= self._limits.inline_payload_bytes:
            return Outcome(self._future(claimed, status="done", content="proto"), body)
        key = f"results/{claimed.op.request_id}"
        ends_at = time.time() + self._limits.result_ttl_s
        self._store.disposal.schedule(Disposable(key=key), ends_at)
        self._objects.put(key, body)
        future = self._future(claimed, status="done", content="proto", body_object=key)
        return Outcome(future, None)

    @staticmethod
    def _future(claimed: ClaimedSample, **fields: str) -> FutureRecord:
        return FutureRecord.model_validate(
            {
                "request_id": claimed.op.request_id,
                "tenant": claimed.op.tenant,
                "result_type": "Sample",
                **fields,
            }
        )
