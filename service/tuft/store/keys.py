"""Names of all keys: what it is comes first, then whose it is.

Scripts get the names as KEYS; the few that touch keys they find out about themselves get a
prefix from here. The store is one Valkey or Redis, not a cluster: keys of one script may be
anywhere.
"""

from __future__ import annotations

SCHEMA = "tuft:schema"
"""String: version of what stands here; see `tuft.store.schema`."""
RESULTS = "tuft:results"
MODELS = "tuft:models"
DISPOSAL = "tuft:disposal"
"""Sorted set of Disposable records by the time they are due."""
STORE_ID = "tuft:store-id"
"""String: drawn when the store was new; what it owns elsewhere is marked with it."""
SCANNED = "tuft:scanned"
"""String: the object store whose checkpoints are all in the index."""
COLLECTOR = "tuft:collector"
"""String with an end: the process that collects garbage."""
CHECKPOINT_ENDS = "tuft:checkpoint-ends"
"""Sorted set of checkpoint names (`run/kind/name`) by when they are to be removed."""
WORKERS = "tuft:workers"
WORKER_PREFIX = "tuft:worker:"
LEDGER_PREFIX = "tuft:ledger:"
SESSION_PREFIX = "tuft:session:"
SESSION_RUNS_PREFIX = "tuft:session-runs:"
SESSION_SAMPLERS_PREFIX = "tuft:session-samplers:"
SAMPLER_PREFIX = "tuft:sampler:"
FUTURE_PREFIX = "tuft:future:"
KEPT_RESULTS = "tuft:kept-results"
"""List of the request ids done last, oldest first; the results of others are dropped."""
FINISHED = "tuft:finished"
"""Hash `KIND:OUTCOME` -> number of operations that ended so since the store was new."""


def session(session_id: str) -> str:
    """Hash: record, heartbeat_at, finished, project."""
    return SESSION_PREFIX + session_id


def session_runs(session_id: str) -> str:
    """Sorted set of run ids by time of creation."""
    return SESSION_RUNS_PREFIX + session_id


def session_samplers(session_id: str) -> str:
    """Sorted set of sampler ids by time of creation."""
    return SESSION_SAMPLERS_PREFIX + session_id


def tenant_sessions(tenant: str) -> str:
    """Sorted set of session ids by time of creation."""
    return f"tuft:tenant-sessions:{tenant}"


def tenant_sessions_seen(tenant: str) -> str:
    """Sorted set of session ids by time of their last heartbeat."""
    return f"tuft:tenant-sessions-seen:{tenant}"


def tenant_runs(tenant: str) -> str:
    """Sorted set of run ids by time of creation."""
    return f"tuft:tenant-runs:{tenant}"


def tenant_live_runs(tenant: str) -> str:
    """Set of run ids."""
    return f"tuft:tenant-live-runs:{tenant}"


def tenant_checkpoints(tenant: str) -> str:
    """Sorted set of checkpoint names (`run/kind/name`) by time of creation."""
    return f"tuft:tenant-checkpoints:{tenant}"


def model_live_runs(base_model: str) -> str:
    """Set of run ids; for migrations, which have to find every run."""
    return f"tuft:model-live-runs:{base_model}"


def pending_runs(base_model: str) -> str:
    """Sorted set of the run ids with something behind their cursor, by time of the newest."""
    return f"tuft:pending:{base_model}"


def paused(base_model: str) -> str:
    """Hash run id -> why it waits for its turn."""
    return f"tuft:paused:{base_model}"


def tenant_pending(tenant: str) -> str:
    """Integer: the tenant's operations that are accepted and not done, in all its runs."""
    return f"tuft:tenant-pending:{tenant}"


def tenant_pending_tokens(tenant: str) -> str:
    """Integer: tokens of the tenant's operations that are accepted and not done."""
    return f"tuft:tenant-pending-tokens:{tenant}"


def run(run_id: str) -> str:
    """Hash.

    record, live (0 or 1), digest (of the creation), epoch (of the writer), writers (JSON: who
    got the last epochs), step (the ledger entry whose plan was recorded last), last_request_at,
    work (name of the stream that wakes the trainer), index (name of `pending_runs`), snapshot and
    snapshot_before (JSON), and the journal's counters: cursor (last seq done), filled (no gap up
    to here), top (highest seq taken), covered (seq of the snapshot, or -1), trimmed (entries up
    to here are gone), pending (accepted, not done), done_by (lease epoch that did `cursor`).
    """
    return f"tuft:run:{run_id}"


def entries(run_id: str) -> str:
    """Hash seq -> `O` + Operation JSON, or `T` + Tombstone JSON."""
    return f"tuft:journal:{run_id}"


def payloads(run_id: str) -> str:
    """Hash seq -> inline payload."""
    return f"tuft:payloads:{run_id}"


def failures(run_id: str) -> str:
    """Hash seq -> why the operation failed."""
    return f"tuft:failures:{run_id}"


def deaths(run_id: str) -> str:
    """Hash seq -> `COUNT:LIFE`: how often trainers died at the operation, and who did last."""
    return f"tuft:deaths:{run_id}"


def waiting(run_id: str) -> str:
    """Sorted set of the operations behind the first gap, seq by accepted_at."""
    return f"tuft:waiting:{run_id}"


def tombstone_prefix(run_id: str) -> str:
    """Tombstones whose entry was trimmed live on for a while, one string a seq."""
    return f"tuft:tombstone:{run_id}:"


def run_checkpoints(run_id: str) -> str:
    """Sorted set of checkpoint names (`run/kind/name`) by time of creation."""
    return f"tuft:run-checkpoints:{run_id}"


def checkpoint(name: str) -> str:
    """String: CheckpointRecord JSON. `name` is `run/kind/name`."""
    return f"tuft:checkpoint:{name}"


def checkpoint_users(name: str) -> str:
    """Sorted set of what may read the checkpoint's files, by when it began."""
    return f"tuft:checkpoint-users:{name}"


def checkpoint_removal(name: str) -> str:
    """String with an end: somebody is removing the checkpoint's files."""
    return f"tuft:checkpoint-removal:{name}"


def future(request_id: str) -> str:
    """Hash: record, digest (of the request), body. It expires as a whole once done."""
    return FUTURE_PREFIX + request_id


def sampler(sampler_id: str) -> str:
    """Hash: record, digest (of the request)."""
    return SAMPLER_PREFIX + sampler_id


def work(base_model: str) -> str:
    """Stream of run ids that have something new in their journal."""
    return f"tuft:work:{base_model}"


def samples(base_model: str) -> str:
    """Stream of SampleOperation JSON that consumers took; an entry is deleted when it is done."""
    return f"tuft:samples:{base_model}"


def sample_queue_prefix(base_model: str) -> str:
    """Lists of SampleOperation JSON that nobody took yet, one a tenant."""
    return f"tuft:sample-queue:{len(base_model)}:{base_model}:"


def sample_tenants(base_model: str) -> str:
    """List of the tenants that have such operations; the first one's turn is next."""
    return f"tuft:sample-tenants:{base_model}"


def sample_counts(base_model: str) -> str:
    """Hash tenant -> number of its operations that wait or run."""
    return f"tuft:sample-counts:{base_model}"


def sample_waiting(base_model: str) -> str:
    """String: how many such operations there are."""
    return f"tuft:sample-waiting:{base_model}"


def sample_wake(base_model: str) -> str:
    """Stream that says that there is a new one."""
    return f"tuft:sample-wake:{base_model}"


def sample_consumers(base_model: str) -> str:
    """Sorted set of the stream's consumers by the time they were last heard of."""
    return f"tuft:sample-consumers:{base_model}"


def ledger_index(scope: str) -> str:
    """Sorted set of step keys by time of their beginning."""
    return f"tuft:ledger-index:{scope}"


def ledger_prefix(scope: str) -> str:
    """Entries of a scope: hashes with the fields of LedgerEntry."""
    return f"{LEDGER_PREFIX}{len(scope)}:{scope}:"


def lease(group: str) -> str:
    """String: the epoch of the group's only valid lease."""
    return f"tuft:lease:{group}"


def lease_holder(group: str) -> str:
    """String: who has that lease; it expires where they are not heard of."""
    return f"tuft:lease-holder:{group}"
