"""Removes from the object store what nothing refers to any more.

Whatever is removed in the ordinary course is removed by who knows that it has ended. What is left
are things whose writer died between two steps, or whose store was emptied. They are removed when
they are old, and were seen without an owner in one pass before, so that neither something that is
being written now nor a clock that jumps can lose anything.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import groupby

from tuft.api.catalog import Catalog
from tuft.api.ownership import Ownership
from tuft.checkpoints import KINDS, MANIFEST, Checkpoints
from tuft.config import ServiceConfig
from tuft.contracts.operations import Operation
from tuft.contracts.records import Disposable, RunRecord
from tuft.errors import DamagedCheckpoint, NotFound
from tuft.objects import ObjectInfo, ObjectStore
from tuft.store import Store
from tuft.store.checkpoints import Place

_log = logging.getLogger(__name__)
_PASSES_IN_A_LIFE = 8
_MOST_OFTEN_S, _MOST_SELDOM_S = 60.0, 3 * 3600.0


class Garbage:
    """One process at a time collects; which one, they settle by a claim in the store."""

    def __init__(
        self, config: ServiceConfig, store: Store, objects: ObjectStore, catalog: Catalog
    ) -> None:
        self._ttl_s = config.limits.orphan_ttl_s
        self.every_s = min(max(self._ttl_s / _PASSES_IN_A_LIFE, _MOST_OFTEN_S), _MOST_SELDOM_S)
        """How often `collect` is to be called, in seconds."""
        self.settle_s = self.every_s / 2
        """How long before a look at something without an owner another one was."""
        self._store = store
        self._objects = objects
        self._catalog = catalog
        self._name = uuid.uuid4().hex
        self._ownership = Ownership(
            store,
            objects,
            lasting=config.persistence.mode != "disabled",
            gone_after_s=max(self._ttl_s, 3 * self.every_s),
        )
        self._seen: dict[str, float] = {}
        """What had no owner in the last pass, and since when, by the monotonic clock."""

    def mark(self, now: float) -> bool:
        """Mark the object store as this store's, where it is nobody's; whether it is ours.

        Raises:
            Unavailable: store or object store are away.
        """
        return self._ownership.look(now)

    def collect(self, now: float) -> int:
        """One pass; how many objects were removed.

        Raises:
            Unavailable: store or object store are away. The next pass goes on.
        """
        removed = 0
        seen, self._seen = self._seen, {}
        claim_s = 3 * self.every_s
        if not (self.mark(now) and self._store.disposal.claim_collection(self._name, claim_s)):
            return 0
        tick = time.monotonic()
        for key in self._without_owner(now - self._ttl_s):
            since = seen.get(key, tick)
            if tick - since < self.settle_s:
                self._seen[key] = since
                continue
            _log.debug("removing %s, which nothing refers to", key)
            self._objects.delete(key)
            removed += 1
        broken = self._objects.sweep(now - self._ttl_s)
        if removed or broken:
            _log.info("removed %d objects without an owner, %d broken writes", removed, broken)
        return removed

    def _without_owner(self, before: float) -> Iterator[str]:
        """Keys of objects that are older than a time and that nothing refers to."""
        owners = _Owners(self._store)
        for folder, is_owned in (
            ("payloads", owners.has_payload),
            ("results", owners.has_result),
            ("ledger", owners.has_plan),
        ):
            for info in self._objects.list(folder):
                if info.changed_at < before and not is_owned(info.key):
                    yield info.key
        for place, infos in groupby(self._objects.list("runs"), lambda info: _folder(info.key)):
            found = list(infos)
            if place is None:
                continue
            run_id, what, name = place
            if what == "snapshots":
                owned = owners.has_snapshot(run_id, name)
            elif what == "policies":
                owned = owners.has_policy(run_id, name)
            else:
                yield from self._leftovers(place, found, before)
                continue
            if not owned:
                yield from (info.key for info in found if info.changed_at < before)

    def _leftovers(
        self, place: tuple[str, str, str], infos: Iterable[ObjectInfo], before: float
    ) -> Iterator[str]:
        """Of a checkpoint: what its manifest does not name. One without a manifest is none."""
        kinds = [kind for kind in KINDS if kind == place[1]]
        if not kinds:
            return
        prefix = "/".join(("runs", *place))
        keys = {info.key: info.changed_at for info in infos}
        if f"{prefix}/{MANIFEST}" in keys:
            self._catalog.see(Place(place[0], kinds[0], place[2]))
            # The files are in one folder, which may be the manifest's.
            folders = {key.rpartition("/")[0] for key in keys if not key.endswith(f"/{MANIFEST}")}
            if len(folders) == 1:
                return
        old = {key for key, changed_at in keys.items() if changed_at < before}
        if old:
            yield from sorted(old - self._of_checkpoint(prefix))

    def _of_checkpoint(self, prefix: str) -> set[str]:
        """All that belongs to the checkpoint at a prefix, if there is one."""
        try:
            return Checkpoints(self._objects).objects_of(prefix)
        except NotFound:
            return set()
        except DamagedCheckpoint as error:
            _log.warning("left alone: %s", error.message)
            return {info.key for info in self._objects.list(prefix)}


class _Owners:
    """What the store knows of. Looked up when it is needed, and remembered for one pass."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[str, RunRecord | None] = {}
        self._plans: set[str] | None = None

    def has_payload(self, key: str) -> bool:
        """`payloads/{run}/{seq}-{digest}`: an entry of the run's journal names it."""
        _, run_id, *rest = key.split("/")
        seq = rest[0].partition("-")[0] if len(rest) == 1 else ""
        if not seq.isdigit():
            return True  # not of our making
        if self._live_run(run_id) is None:
            return False
        try:
            entries = self._store.journal.entries(run_id, int(seq) - 1, 1)
        except NotFound:
            return False  # trimmed
        return any(isinstance(op, Operation) and op.payload_object == key for op in entries)

    def has_result(self, key: str) -> bool:
        """It is entered for removal before it is written, until it is removed."""
        return self._store.disposal.has(Disposable(key=key))

    def has_plan(self, key: str) -> bool:
        """A step of the ledger names it."""
        if self._plans is None:
            self._plans = set(self._store.ledger.plan_objects())
        return key in self._plans or self._store.disposal.has(Disposable(key=key))

    def has_snapshot(self, run_id: str, name: str) -> bool:
        """`runs/{run}/snapshots/{seq}`: the run goes on, and may begin there."""
        if not name.isdigit():
            return True  # not of our making
        if self._live_run(run_id) is None:
            return False
        status = self._store.runs.status(run_id)
        kept = [s.seq_id for s in (status.snapshot, status.snapshot_before) if s is not None]
        return not kept or int(name) >= min(kept)

    def has_policy(self, run_id: str, name: str) -> bool:
        """It is entered for removal before it is written, until it is removed."""
        run = self._run(run_id)
        if run is None:
            return False
        key = f"runs/{run_id}/policies/{name}"
        return self._store.disposal.has(Disposable(key=key, folder=True, session_id=run.session_id))

    def _live_run(self, run_id: str) -> RunRecord | None:
        run = self._run(run_id)
        return run if run is not None and run.live else None

    def _run(self, run_id: str) -> RunRecord | None:
        if run_id not in self._runs:
            try:
                self._runs[run_id] = self._store.runs.get(run_id)
            except NotFound:
                self._runs[run_id] = None
        return self._runs[run_id]


def _folder(key: str) -> tuple[str, str, str] | None:
    """Of `runs/{run}/{what}/{name}/…`: run, what and name; None for what is not ours."""
    parts = key.split("/")
    return (parts[1], parts[2], parts[3]) if len(parts) >= 5 else None
