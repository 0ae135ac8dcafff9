"""Ownership: another tenant's things look exactly like things that do not exist."""

from __future__ import annotations

from tuft.api.deps import Caller
from tuft.api.services import Services
from tuft.contracts.records import RunRecord, SamplerRecord, SessionRecord
from tuft.errors import InvalidRequest, NotFound, StaleWriter
from tuft.store import RunStatus


def session_of(services: Services, caller: Caller, session_id: str) -> SessionRecord:
    """Raises NotFound."""
    missing = NotFound(f"there is no session {session_id!r}")
    try:
        session = services.store.sessions.get(session_id)
    except NotFound:
        raise missing from None
    if session.tenant != caller.tenant:
        raise missing
    return session


def run_of(services: Services, caller: Caller, run_id: str) -> RunRecord:
    """A training run, also one that only checkpoints remember. Raises NotFound."""
    missing = _no_run(run_id)
    try:
        run = services.store.runs.get(run_id)
    except NotFound:
        # The scan at start may not have come to its checkpoints yet.
        services.catalog.wait_until_complete()
        try:
            run = services.store.runs.get(run_id)
        except NotFound:
            raise missing from None
    if run.tenant != caller.tenant:
        raise missing
    return run


def live_run_of(services: Services, caller: Caller, run_id: str) -> RunRecord:
    """A training run that takes operations. Raises NotFound, or InvalidRequest if it is over."""
    run = run_of(services, caller, run_id)
    _check_live(caller, run)
    return run


def sampler_of(services: Services, caller: Caller, sampler_id: str) -> SamplerRecord:
    """Raises NotFound."""
    missing = NotFound(f"there is no sampling session {sampler_id!r}")
    try:
        sampler = services.store.samplers.get(sampler_id)
    except NotFound:
        raise missing from None
    if sampler.tenant != caller.tenant:
        raise missing
    return sampler


def writable_run_of(
    services: Services, caller: Caller, run_id: str, seq_id: int
) -> tuple[RunRecord, RunStatus, bool]:
    """A live run of which the caller is the newest writer, and whether `seq_id` was taken before.

    The journal checks the writer again when it accepts; this comes first so that a stale writer
    learns that it is stale, and not what else is wrong with its request.

    Raises:
        NotFound, InvalidRequest: as `live_run_of`.
        StaleWriter: the caller's writer epoch is not the run's current one.
    """
    try:
        run, status, taken = services.store.runs.standing(run_id, seq_id)
    except NotFound:
        run_of(services, caller, run_id)  # which knows where else it may come from
        run, status, taken = services.store.runs.standing(run_id, seq_id)
    _check_live(caller, run)
    _check_writer(run_id, status, caller.writer_epoch)
    return run, status, taken


def _check_live(caller: Caller, run: RunRecord) -> None:
    if run.tenant != caller.tenant:
        raise _no_run(run.run_id)
    if not run.live:
        raise InvalidRequest(
            f"training run {run.run_id!r} ended when the service restarted without persistence; "
            "its checkpoints are there: start a new run from one of them"
        )


def _check_writer(run_id: str, status: RunStatus, writer_epoch: int) -> None:
    if writer_epoch < status.writer_epoch:
        raise StaleWriter(
            f"another writer attached to training run {run_id!r} (writer epoch "
            f"{status.writer_epoch}, yours is {writer_epoch}); attach again to write"
        )
    if writer_epoch > status.writer_epoch:
        raise StaleWriter(
            f"X-Tuft-Writer-Epoch is {writer_epoch}, but training run {run_id!r} has given out "
            f"no more than {status.writer_epoch}; attach to get one"
        )


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"there is no training run {run_id!r}")
