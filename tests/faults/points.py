"""The fault points that a campaign kills at, each before and after.

What reaches them is in the comments: `Trainee` is in every round, the other clients of `clients`
are in rounds with several tenants only.
"""

from __future__ import annotations

_TRAINER = (
    # At its start: a process is killed for them first.
    "lease_acquire",
    "hset-models",
    "ranks-restore",
    # At any time.
    "worker_report",
    "ranks-start",
    "ranks-compute",
    "ranks-step",
    "journal_complete",
    "journal_pass",
    "journal_snapshot",
    "journal_trim",
    "zadd-disposal",
    "put-results",
    "put-snapshots-file",
    "put-snapshots-manifest",
    "delete-snapshots-file",
    "delete-snapshots-manifest",
    "delete-payloads",
    "put-weights-file",
    "put-weights-manifest",
    "delete-weights-file",
    "put-sampler_weights-file",
    "put-sampler_weights-manifest",
    "put-policies-file",
    "put-policies-manifest",
    "handover-put",
    "handover-write",
    "handover-uploaded",
)
_API = (
    "journal_accept",
    "journal_refuse",
    "put-payloads",
    "sampler_create",
    "sample_accept",
    "zadd-tenant-sessions-seen",
    # Newcomer and Stepper.
    "session_create",
    "run_create",
    "hsetnx-session",
    "run_attach",
    "ledger_begin",
    "ledger_update",
    "put-ledger",
)
_SAMPLER = (
    "sample_reclaim",
    "sample_claim",
    "sample_complete",
    "worker_report",
    "put-results",
    "zadd-disposal",
)
_OF_SEVERAL = {
    "api.session_create",
    "api.run_create",
    "api.hsetnx-session",
    "api.run_attach",
    "api.ledger_begin",
    "api.ledger_update",
    "api.put-ledger",
}
_AT_START = {
    "trainer.lease_acquire",
    "trainer.hset-models",
    "trainer.ranks-restore",
    "sampler.sample_reclaim",
}

POINTS = tuple(
    f"{role}.{what}.{when}"
    for role, whats in (("trainer", _TRAINER), ("api", _API), ("sampler", _SAMPLER))
    for what in whats
    for when in ("before", "after")
)


def role_of(point: str) -> str:
    return point.partition(".")[0]


def is_at_start(point: str) -> bool:
    """Whether a process comes there at its start, and seldom or never later."""
    return point.rpartition(".")[0] in _AT_START


def needs_several(point: str) -> bool:
    """Whether nothing that a Trainee does comes there."""
    return point.rpartition(".")[0] in _OF_SEVERAL
