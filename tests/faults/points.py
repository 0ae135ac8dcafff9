"""The fault points that a campaign kills at, each before and after, and how a process gets there."""

from __future__ import annotations

_TRAINER = (
    "lease_acquire",
    "lease_renew",
    "lease_release",
    "hset-models",
    "journal_death",
    "hdel-deaths",
    "ranks-resume",
    "worker_report",
    "ranks-start",
    "ranks-compute",
    "ranks-step",
    "ranks-capture",
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
    "delete-policies-file",
    "handover-put",
    "handover-write",
    "handover-uploaded",
)
_API = (
    "set-store-id",
    "journal_accept",
    "journal_refuse",
    "put-payloads",
    "sampler_create",
    "multi-zadd-checkpoint-users",
    "sample_accept",
    "zadd-tenant-sessions-seen",
    "session_create",
    "run_create",
    "hsetnx-session",
    "run_attach",
    "ledger_begin",
    "ledger_plan",
    "ledger_finish",
    "put-ledger",
    "delete-ledger",
)
_SAMPLER = (
    "sample_reclaim",
    "sample_claim",
    "sample_complete",
    "sample_release",
    "worker_report",
    "put-results",
    "zadd-disposal",
)
# What a Trainee does comes to none of these; Newcomer and Stepper do.
_OF_SEVERAL = frozenset(
    {
        "api.session_create",
        "api.run_create",
        "api.hsetnx-session",
        "api.run_attach",
        "api.ledger_begin",
        "api.ledger_plan",
        "api.ledger_finish",
        "api.put-ledger",
        "api.delete-ledger",
    }
)
_AT_START = frozenset(
    {"trainer.lease_acquire", "trainer.hset-models", "trainer.ranks-resume", "trainer.hdel-deaths"}
    | {"rank.ranks-resume", "sampler.sample_reclaim", "api.set-store-id"}
)
_AT_STOP = frozenset({"trainer.lease_release", "sampler.sample_release"})
# A death there is what the next process makes a note of, or strikes out where it was in a replay; or
# it leaves a file that nothing names.
_AFTER = {
    "trainer.journal_death": "trainer.ranks-compute.after",
    "trainer.hdel-deaths": "trainer.ranks-compute.after",
    "trainer.delete-policies-file": "trainer.put-policies-file.after",
}

# Comes by the clock, 30 s after the process began.
_SELDOM = frozenset({"api.delete-ledger"})

_WHERE = {"trainer": _TRAINER, "api": _API, "sampler": _SAMPLER}
_RANK = ("ranks-resume", "ranks-start", "ranks-compute", "ranks-step", "ranks-capture")


def _both(role: str, whats: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{role}.{what}.{when}" for what in whats for when in ("before", "after"))


POINTS = tuple(point for role, whats in _WHERE.items() for point in _both(role, whats))
RANK_POINTS = _both("rank", _RANK)
"""Those of ranks other than 0, where the trainer has several."""


def role_of(point: str) -> str:
    return point.partition(".")[0]


def is_at_start(point: str) -> bool:
    """Whether a process comes there at its start, and seldom or never later."""
    return _boundary(point) in _AT_START


def is_at_stop(point: str) -> bool:
    """Whether a process comes there when it is asked to end."""
    return _boundary(point) in _AT_STOP


def reach_s(point: str) -> float:
    """Within how many seconds a process comes there, if it does."""
    return 45.0 if _boundary(point) in _SELDOM else 12.0


def point_before(point: str) -> str | None:
    """Where the process must die before another one comes to `point`; None: it does not matter."""
    return _AFTER.get(_boundary(point))


def needs_several(point: str) -> bool:
    """Whether it takes more than a Trainee to come there."""
    return _boundary(point) in _OF_SEVERAL


def _boundary(point: str) -> str:
    return point.rpartition(".")[0]
