"""TuFT's own endpoints, for tuft_sdk: attaching to runs, the ledger of steps, tokenizers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from tuft import __version__
from tuft.api import schemas
from tuft.api.access import live_run_of, run_of
from tuft.api.deps import Authenticated, Caller, Injected, JsonBody, LargeBody
from tuft.api.services import Services
from tuft.api.submission import Draft, Submission
from tuft.api.tokenizers import tokenizer_archive
from tuft.contracts.operations import ClearGradients, digest_of
from tuft.contracts.records import LedgerAttempt, LedgerEntry
from tuft.errors import InvalidRequest, NotFound

router = APIRouter(prefix="/tuft")

INTERFACE = 1
"""Of these endpoints: another number where a client that knows this one would go wrong."""

Scope = Annotated[str, Query(min_length=1, max_length=256)]
StepKey = Annotated[str, Query(min_length=1, max_length=512)]


@router.get("/version")
def version(_caller: Authenticated) -> dict[str, Any]:
    """What a client asks before it begins, to say at once that it is of another version."""
    return {"tuft": __version__, "interface": INTERFACE}


@router.post("/runs/{run_id}/attach")
def attach(
    services: Injected, caller: Authenticated, body: JsonBody, run_id: str
) -> dict[str, Any]:
    """Become the run's only writer; what earlier writers send from now on is refused."""
    request = body.parse(schemas.Attach)
    run = live_run_of(services, caller, run_id)
    status = services.store.runs.attach(run_id, request.writer)
    return {
        "run_id": run_id,
        "base_model": run.base_model,
        "writer_epoch": status.writer_epoch,
        "next_seq_id": status.next_seq_id,
        "lora_rank": run.lora.rank,
    }


@router.post("/runs/{run_id}/clear_gradients")
def clear_gradients(
    services: Injected, caller: Authenticated, body: JsonBody, run_id: str
) -> dict[str, Any]:
    """An operation of the run like any other, under its own seq_id; answers with its future."""
    request = body.parse(schemas.ClearGradients)
    # The step key is in the digest: two steps that race for a seq_id must not share it.
    draft = Draft(
        body=ClearGradients(),
        digest=digest_of("clear_gradients", request.step_key),
        result_type="ClearGradients",
    )
    return Submission(services, caller, run_id, request.seq_id).submit(lambda _slot: draft)


@router.get("/steps")
def look_at_step(
    services: Injected, caller: Authenticated, scope: Scope, step_key: StepKey
) -> dict[str, Any]:
    """The step's entry, null where it was not begun. Anyone may look, also without attaching."""
    entry = services.store.ledger.get(_scope(services, caller, scope), step_key)
    return {"entry": None} if entry is None else _shown(entry)


@router.post("/steps/begin")
def begin_step(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    request = body.parse(schemas.BeginStep)
    entry = services.store.ledger.begin(
        _scope(services, caller, request.scope),
        request.step_key,
        writer_epoch=_epoch(caller, request.writer_epoch),
        first_seq_id=request.first_seq_id,
    )
    return _shown(entry)


@router.put("/steps/plan")
def put_plan(
    services: Injected,
    caller: Authenticated,
    body: LargeBody,
    scope: Scope,
    step_key: StepKey,
    first_seq_id: Annotated[int, Query(ge=0)],
) -> dict[str, Any]:
    """Keep the payloads that a second execution submits again. The first plan stays."""
    plan = body.plain(services.config.limits.max_request_bytes)
    full = _scope(services, caller, scope)
    _entry(services, full, step_key)
    key = f"ledger/{digest_of(full, step_key)[:32]}/{digest_of(plan)[:32]}"
    services.objects.put(key, plan)
    entry = services.store.ledger.record_plan(
        full, step_key, key, first_seq_id, writer_epoch=_epoch(caller, None)
    )
    if entry.plan_object != key:
        services.objects.delete(key)
    return _shown(entry)


@router.get("/steps/plan")
def get_plan(
    services: Injected, caller: Authenticated, scope: Scope, step_key: StepKey
) -> Response:
    entry = _entry(services, _scope(services, caller, scope), step_key)
    if entry.plan_object is None:
        raise NotFound(f"step {step_key!r} has no plan")
    return Response(services.objects.get(entry.plan_object), media_type="application/octet-stream")


@router.post("/steps/attempt")
def another_attempt(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    """Recorded before any of it is submitted, like the plan; what is recorded first stays."""
    request = body.parse(schemas.StepAttempt)
    entry = services.store.ledger.record_attempt(
        _scope(services, caller, request.scope),
        request.step_key,
        request.number,
        LedgerAttempt(first_operation=request.first_operation, first_seq_id=request.first_seq_id),
        writer_epoch=_epoch(caller, request.writer_epoch),
    )
    return _shown(entry)


@router.post("/steps/finish")
def finish_step(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    """The first result stays, and is what the answer has. The plan is removed soon."""
    request = body.parse(schemas.FinishStep)
    entry = services.store.ledger.finish(
        _scope(services, caller, request.scope),
        request.step_key,
        request.result,
        writer_epoch=_epoch(caller, request.writer_epoch),
    )
    return _shown(entry)


@router.get("/models/{model_name:path}/tokenizer")
def tokenizer(
    services: Injected,
    _caller: Authenticated,
    model_name: str,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The model's tokenizer files as a zip, so that steps need no internet."""
    config = services.served(model_name)
    if config.resolved_folder is None:
        raise NotFound(f"model {model_name!r} has no folder that was prepared")
    archive, etag = tokenizer_archive(config.resolved_folder)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(archive, media_type="application/zip", headers=headers)


def _scope(services: Services, caller: Caller, scope: str) -> str:
    """`tenant` is the caller's own; all else is a run of the caller. Raises NotFound."""
    if scope == "tenant":
        return f"tenant:{caller.tenant}"
    return run_of(services, caller, scope).run_id


def _epoch(caller: Caller, given: int | None) -> int:
    """The body's, or the header's. Raises InvalidRequest where they differ."""
    if given is None or caller.writer_epoch in (0, given):
        return caller.writer_epoch if given is None else given
    raise InvalidRequest(
        f"writer_epoch is {given} in the body and {caller.writer_epoch} in X-Tuft-Writer-Epoch"
    )


def _entry(services: Services, scope: str, step_key: str) -> LedgerEntry:
    entry = services.store.ledger.get(scope, step_key)
    if entry is None:
        raise NotFound(f"step {step_key!r} was not begun")
    return entry


def _shown(entry: LedgerEntry) -> dict[str, Any]:
    return {"entry": entry.model_dump()}
