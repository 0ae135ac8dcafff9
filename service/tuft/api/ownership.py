"""Which store an object store belongs to, so that none removes what another one needs."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ValidationError

from tuft.errors import NotFound
from tuft.objects import ObjectStore
from tuft.store import Store

_log = logging.getLogger(__name__)

MARKER = "tuft-store.json"


class Marker(BaseModel):
    """The object `tuft-store.json`: the store that everything beside it belongs to."""

    store: str
    lasting: bool
    """False: the store forgets everything when it stops (persistence.mode disabled)."""
    seen_at: float


class Ownership:
    """Looks whether the object store is this store's, and marks it where it is nobody's.

    Args:
        lasting: the store outlives the service.
        gone_after_s: another store that does not last, and was not seen for so long, is gone.
    """

    def __init__(
        self, store: Store, objects: ObjectStore, *, lasting: bool, gone_after_s: float
    ) -> None:
        self._store = store
        self._objects = objects
        self._lasting = lasting
        self._gone_after_s = gone_after_s
        self._told = False

    def look(self, now: float) -> bool:
        """Whether it is ours; if so, the marker says that we were here.

        Raises:
            Unavailable: store or object store are away.
        """
        mine = self._store.disposal.store_id()
        marker = self._read()
        if marker is None and (known := self._known_to_others()) is not None:
            self._tell(f"it has no {MARKER}, and {known}, which this store does not know", mine)
            return False
        if marker is not None and marker.store != mine and not self._is_gone(marker, now):
            if not marker.lasting:
                _log.info("nothing is cleaned up in the object store yet: %s", marker)
                return False
            self._tell(f"its {MARKER} names another store, {marker.store}", mine)
            return False
        self._objects.put(MARKER, self._marker(mine, now))
        return True

    def _is_gone(self, marker: Marker, now: float) -> bool:
        return not marker.lasting and marker.seen_at + self._gone_after_s < now

    def _read(self) -> Marker | None:
        try:
            return Marker.model_validate_json(self._objects.get(MARKER))
        except NotFound:
            return None
        except ValidationError:
            # Whoever wrote this, it was not this version.
            return Marker(store="that can't be read", lasting=True, seen_at=0.0)

    def _known_to_others(self) -> str | None:
        """Something in the object store that only a store can have put there, and not this one."""
        seen: dict[str, bool] = {}
        for folder in ("payloads", "runs"):
            for info in self._objects.list(folder):
                match info.key.split("/"):
                    case ["payloads", run_id, _]:
                        pass
                    case ["runs", run_id, "snapshots" | "policies", _, _, *_]:
                        pass
                    case _:
                        continue
                if run_id not in seen:
                    seen[run_id] = self._is_live(run_id)
                if not seen[run_id]:
                    return f"has data of training run {run_id}"
        return None

    def _is_live(self, run_id: str) -> bool:
        try:
            return self._store.runs.get(run_id).live
        except NotFound:
            return False

    def _marker(self, mine: str, now: float) -> bytes:
        return Marker(store=mine, lasting=self._lasting, seen_at=now).model_dump_json().encode()

    def _tell(self, why: str, mine: str) -> None:
        if self._told:
            return
        self._told = True
        _log.warning(
            "nothing is cleaned up in the object store, since it may be another service's: %s. "
            "Is it this one's alone, put an object %s there that says "
            '{"store": "%s", "lasting": %s, "seen_at": 0}',
            why,
            MARKER,
            mine,
            "true" if self._lasting else "false",
        )
