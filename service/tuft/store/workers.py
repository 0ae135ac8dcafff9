"""Workers: who leads a group, who is there, and what they know of their models."""

from __future__ import annotations

import json

from tuft.contracts.records import ModelInfo
from tuft.errors import LeaseLost
from tuft.store import keys
from tuft.store.connection import Connection, blob, integer, items, script, text
from tuft.store.values import Lease, WorkerState, WorkerStatus


class Workers:
    """Leases of worker groups, states of workers, descriptions of loaded models."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def acquire(
        self, group: str, holder: str, ttl_s: float, replaces: str | None = None
    ) -> Lease | None:
        """Take over a group: every earlier lease of it is over from now on.

        It has to be renewed within `ttl_s` seconds, or others may take it. None where another
        `holder` has it whose time is not over, unless that is `replaces`, which has ended.
        """
        reply = self._connection.run(
            script("lease_acquire"),
            [keys.lease(group), keys.lease_holder(group)],
            [holder, _milliseconds(ttl_s), replaces or ""],
        )
        return None if reply is None else Lease(group, integer(reply))

    def renew(self, lease: Lease, holder: str, ttl_s: float) -> None:
        """The holder lives. A lease whose time was over goes on where nobody has taken it.

        Raises:
            LeaseLost: somebody has.
        """
        reply = self._connection.run(
            script("lease_renew"),
            [keys.lease(lease.group), keys.lease_holder(lease.group)],
            [lease.epoch, holder, _milliseconds(ttl_s)],
        )
        if not integer(reply):
            raise _lost(lease)

    def release(self, lease: Lease, holder: str) -> None:
        """Whoever waits for the group may take over at once."""
        self._connection.run(
            script("lease_release"),
            [keys.lease(lease.group), keys.lease_holder(lease.group)],
            [lease.epoch, holder],
        )

    def check(self, lease: Lease) -> None:
        """Raises: LeaseLost."""
        current = self._connection.call("GET", keys.lease(lease.group))
        if current is None or integer(current) != lease.epoch:
            raise _lost(lease)

    def report(
        self, worker_id: str, role: str, base_model: str, state: WorkerState, ttl_s: float = 15
    ) -> None:
        """Say what this worker is and does; it holds for `ttl_s` seconds."""
        said = {"role": role, "base_model": base_model, "state": state}
        self._connection.run(
            script("worker_report"),
            [keys.WORKERS, keys.WORKER_PREFIX + worker_id],
            [worker_id, json.dumps(said), _milliseconds(ttl_s)],
        )

    def statuses(self) -> list[WorkerStatus]:
        """What workers said whose time is not over, by worker id."""
        reply = items(
            self._connection.run(script("worker_statuses"), [keys.WORKERS], [keys.WORKER_PREFIX])
        )
        found = [(text(reply[i]), json.loads(blob(reply[i + 1]))) for i in range(0, len(reply), 2)]
        return [WorkerStatus(worker_id, **said) for worker_id, said in sorted(found)]

    def set_model_info(self, info: ModelInfo) -> None:
        """Describe a model as its trainer loaded it."""
        self._connection.call("HSET", keys.MODELS, info.model_name, info.model_dump_json())

    def model_info(self, model_name: str) -> ModelInfo | None:
        """The description of a model, None where no trainer has loaded it yet."""
        found = self._connection.call("HGET", keys.MODELS, model_name)
        return None if found is None else ModelInfo.model_validate_json(blob(found))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"the lease of {lease.group} with epoch {lease.epoch} is over: another worker took it, or "
        "the store was emptied"
    )
