"""Operations of a training run: each is validated, journalled, and then answered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel

from tuft.api import schemas
from tuft.api.body import Body, parse
from tuft.api.deps import Authenticated, Caller, Injected, JsonBody, LargeBody
from tuft.api.protobuf import check_forward_backward
from tuft.api.routers.models import create_from_checkpoint
from tuft.api.rules import check_optimizer, check_rank, loadable
from tuft.api.services import Services
from tuft.api.submission import Draft, Slot, Submission
from tuft.api.uses import operation_user
from tuft.api.validation import check_batch
from tuft.checkpoints import check_name, parse_path
from tuft.contracts import wire
from tuft.contracts.operations import (
    ForwardBackward,
    LoadWeights,
    OptimStep,
    SaveWeights,
    SaveWeightsForSampler,
    digest_of,
)
from tuft.contracts.records import CheckpointKind
from tuft.contracts.vllm import check_policy
from tuft.errors import InvalidRequest

router = APIRouter()
Request = TypeVar("Request", bound=BaseModel)

_BIG_BYTES = 1024 * 1024
_FIELDS_PER_DATUM = 64
"""Some 20 for a datum with three tensors, and one for each further chunk."""


@router.post("/forward_backward")
def forward_backward(services: Injected, caller: Authenticated, body: LargeBody) -> dict[str, Any]:
    """A serialized ForwardBackwardRequest, plain or as one zstd frame; also for forward only."""
    limits = services.config.limits
    large = body.stated_bytes() > _BIG_BYTES
    with services.big_requests if large else nullcontext():
        data = body.plain(limits.max_decompressed_bytes)
        check_forward_backward(data, limits.max_datums * _FIELDS_PER_DATUM)
        run_id, seq_id, forward_only = wire.identity(data)
        submission = Submission(services, caller, run_id, seq_id, maybe_gradient=not forward_only)
        return submission.submit(lambda slot: _batch(services, slot, data))


@router.post("/optim_step")
def optim_step(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    def draft(_slot: Slot, request: schemas.OptimStepRequest) -> Draft:
        if request.optimizer_params is not None:
            check_optimizer(request.optimizer_params)
        if request.adam_params is None:
            raise InvalidRequest("adam_params is missing")
        adam = request.adam_params
        return Draft(
            body=OptimStep(**adam.model_dump()),
            digest=digest_of("optim_step", adam.model_dump_json()),
            result_type="OptimStep",
        )

    return _submit(services, caller, body, schemas.OptimStepRequest, draft)


@router.post("/save_weights")
def save_weights(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    def draft(slot: Slot, request: schemas.SaveWeightsRequest) -> Draft:
        if request.path is None:
            raise InvalidRequest("path is missing; it is the name of the checkpoint")
        name = check_name(request.path)
        _check_free(services, slot, "weights", name, overwrite=request.overwrite)
        return Draft(
            body=SaveWeights(
                name=name,
                overwrite=request.overwrite,
                ttl_seconds=request.ttl_seconds,
                user_metadata=request.user_metadata or {},
                step_key=caller.step_key,
            ),
            digest=_digest(request),
            result_type="SaveWeights",
        )

    return _submit(services, caller, body, schemas.SaveWeightsRequest, draft)


@router.post("/save_weights_for_sampler")
def save_weights_for_sampler(
    services: Injected, caller: Authenticated, body: JsonBody
) -> dict[str, Any]:
    def draft(slot: Slot, request: schemas.SaveWeightsForSamplerRequest) -> Draft:
        if request.kind != "snapshot":
            raise InvalidRequest(f"kind {request.kind!r} is not served yet; use 'snapshot'")
        if (request.path is None) == (request.sampling_session_seq_id is None):
            raise InvalidRequest(
                "give either path (a named checkpoint) or sampling_session_seq_id (a sampling "
                "session without a name)"
            )
        name = None if request.path is None else check_name(request.path)
        if name is not None:
            _check_free(services, slot, "sampler_weights", name)
        else:
            # A named one may be meant for another place; a session is for here.
            check_policy(services.config, slot.run.lora)
        return Draft(
            body=SaveWeightsForSampler(
                name=name,
                sampler_id=_ephemeral_sampler_id(slot) if name is None else None,
                ttl_seconds=request.ttl_seconds,
                user_metadata=request.user_metadata or {},
                step_key=caller.step_key,
            ),
            # The SDK counts it on with every try of the same request, and nothing depends on it.
            digest=_digest(request, exclude={"sampling_session_seq_id"}),
            result_type="SaveWeightsForSampler",
        )

    return _submit(services, caller, body, schemas.SaveWeightsForSamplerRequest, draft)


@router.post("/load_weights")
def load_weights(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    """Into an existing run (model_id, seq_id), or as a new one (session_id, model_seq_id)."""
    value = body.json_object()
    if value.get("model_id") is None:
        request = parse(schemas.LoadWeightsRequest, value)
        if request.session_id is None:
            raise InvalidRequest("give either model_id and seq_id, or session_id and model_seq_id")
        return create_from_checkpoint(services, caller, request)

    def draft(slot: Slot, request: schemas.LoadWeightsRequest) -> Draft:
        _check_load_into(services, caller, slot, request)
        return Draft(
            body=LoadWeights(
                path=request.path,
                prefix=parse_path(request.path).prefix,
                optimizer=request.optimizer,
            ),
            digest=digest_of("load_weights", request.path, str(request.optimizer)),
            result_type="LoadWeights",
        )

    return _submit(services, caller, body, schemas.LoadWeightsRequest, draft)


@router.post("/save_weights_external")
def save_weights_external(
    services: Injected, caller: Authenticated, body: JsonBody
) -> dict[str, Any]:
    """Not served; but it takes a seq_id, which must be burnt like that of any refused request."""

    def draft(_slot: Slot, _request: schemas.TrainingRequest) -> Draft:
        raise InvalidRequest(
            "save_weights_external is not served by this service; checkpoints are PEFT adapters "
            "in its object store already"
        )

    return _submit(services, caller, body, schemas.TrainingRequest, draft)


def _submit(
    services: Services,
    caller: Caller,
    body: Body,
    model: type[Request],
    draft: Callable[[Slot, Request], Draft],
) -> dict[str, Any]:
    """Whose request it is comes first, whether it is well-formed comes second: a malformed
    request of the owner burns its seq_id, too."""
    value = body.json_object()
    place = parse(schemas.TrainingRequest, value)
    submission = Submission(services, caller, place.model_id, place.seq_id)
    return submission.submit(lambda slot: draft(slot, parse(model, value)))


def _batch(services: Services, slot: Slot, data: bytes) -> Draft:
    request = wire.decode_forward_backward(data)
    model = services.model_info(slot.run.base_model)
    check_batch(request, model, services.config.limits.max_datums)
    return Draft(
        body=ForwardBackward(
            forward_only=request.forward_only,
            rows=len(request.rows),
            tokens=request.num_tokens,
        ),
        digest=wire.content_digest(request),
        result_type="Forward" if request.forward_only else "ForwardBackward",
        payload=data,
    )


def _check_free(
    services: Services, slot: Slot, kind: CheckpointKind, name: str, *, overwrite: bool = False
) -> None:
    """A repeated request finds the checkpoint that it made itself; the trainer, which writes
    them one after the other, has the last word."""
    if not slot.repeated:
        services.catalog.check_free(slot.run.run_id, kind, name, overwrite=overwrite)


def _check_load_into(
    services: Services, caller: Caller, slot: Slot, request: schemas.LoadWeightsRequest
) -> None:
    if request.session_id is not None or request.model_seq_id is not None:
        raise InvalidRequest("give either model_id and seq_id, or session_id and model_seq_id")
    if request.optimizer_config is not None:
        check_optimizer(request.optimizer_config)
    if slot.repeated:
        return
    user = operation_user(slot.run.run_id, slot.seq_id)
    record = loadable(services, caller, request.path, optimizer=request.optimizer, user=user)
    source = record.manifest.run
    check_rank(services, source.lora.rank)
    if source.base_model != slot.run.base_model:
        raise InvalidRequest(
            f"checkpoint {request.path} is of base model {source.base_model!r}; this training run "
            f"is of {slot.run.base_model!r}"
        )
    shape = {"seed": 0}
    if source.lora.model_copy(update=shape) != slot.run.lora.model_copy(update=shape):
        raise InvalidRequest(
            f"checkpoint {request.path} has another adapter (rank, alpha, modules) than this "
            "training run; make a new training client from it instead"
        )


def _ephemeral_sampler_id(slot: Slot) -> str:
    """From the operation's identity. The client's sampling_session_seq_id counts within its own
    session, which is another one for each process that attached to the run."""
    return f"{slot.run.run_id}:sample:{slot.seq_id}"


def _digest(request: schemas.Closed, exclude: set[str] | None = None) -> str:
    return digest_of(request.model_dump_json(exclude=exclude))
