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
    missing = NotFound(f"there is no training run {run_id!r}")
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
    if not run.live:
        raise InvalidRequest(
            f"training run {run_id!r} ended when the service restarted without persistence; its "
            "checkpoints are there: start a new run from one of them"
        )
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


def check_writer(services: Services, run_id: str, writer_epoch: int) -> RunStatus:
    """Raise StaleWriter unless `writer_epoch` is the run's current one.

    The journal checks again when it accepts; this comes first so that a stale writer learns
    that it is stale, and not what else is wrong with its request.
    """
    status = services.store.runs.status(run_id)
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
    return status
