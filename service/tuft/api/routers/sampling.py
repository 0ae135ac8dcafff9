"""Sampling sessions, and asample."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter

from tuft.api import schemas
from tuft.api.access import sampler_of, session_of
from tuft.api.deps import Authenticated, Caller, Injected, JsonBody
from tuft.api.samples import sequence_ids, to_operation
from tuft.api.services import Services
from tuft.api.uses import session_user
from tuft.checkpoints import parse_path
from tuft.contracts.operations import FutureRecord, digest_of
from tuft.contracts.policies import policy_name
from tuft.contracts.records import SamplerRecord
from tuft.contracts.vllm import check_params, check_policy
from tuft.errors import InvalidRequest, NotFound

router = APIRouter()


@router.post("/create_sampling_session")
def create_sampling_session(
    services: Injected, caller: Authenticated, body: JsonBody
) -> dict[str, Any]:
    """Of a base model, or of a checkpoint (for training or for sampling, own or public)."""
    request = body.parse(schemas.CreateSamplingSessionRequest)
    session_of(services, caller, request.session_id)
    sampler_id = f"{request.session_id}:sample:{request.sampling_session_seq_id}"
    sampler = _existing(services, sampler_id) or _new_sampler(services, caller, request, sampler_id)
    services.store.samplers.create(sampler, digest_of(request.model_dump_json()))
    return {"sampling_session_id": sampler_id, "type": "create_sampling_session"}


@router.get("/samplers/{sampler_id}")
def get_sampler(services: Injected, caller: Authenticated, sampler_id: str) -> dict[str, Any]:
    sampler = sampler_of(services, caller, sampler_id)
    return {
        "sampler_id": sampler.sampler_id,
        "base_model": sampler.base_model,
        "model_path": sampler.model_path,
    }


@router.post("/asample")
def asample(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    """The seq_id is only an identity: requests of a session run in any order."""
    request = body.parse(schemas.SampleRequest)
    if request.sampling_session_id is None:
        raise InvalidRequest(
            "sampling_session_id is missing: make a session with create_sampling_session"
        )
    sampler = sampler_of(services, caller, request.sampling_session_id)
    limits = services.config.limits
    operation = to_operation(
        request, sampler, services.model_info(sampler.base_model), limits.max_num_samples
    )
    check_params(services.config, operation.params)
    future = FutureRecord(
        request_id=operation.request_id,
        tenant=caller.tenant,
        result_type="Sample",
        content="proto",
    )
    accepted = services.waiters.expect(
        future,
        lambda: services.store.samples.accept(
            operation,
            future,
            max_pending=limits.max_pending_samples,
            max_of_tenant=limits.max_tenant_samples,
        ),
    )
    services.count("sample", accepted)
    return {
        "request_id": accepted.request_id,
        "sample_sequence_ids": sequence_ids(accepted.request_id, request.num_samples),
    }


def _existing(services: Services, sampler_id: str) -> SamplerRecord | None:
    """For a repeated request: its checkpoint may be gone, its session is still there."""
    try:
        return services.store.samplers.get(sampler_id)
    except NotFound:
        return None


def _new_sampler(
    services: Services,
    caller: Caller,
    request: schemas.CreateSamplingSessionRequest,
    sampler_id: str,
) -> SamplerRecord:
    base_model, policy = request.base_model, None
    if request.model_path is not None:
        place = parse_path(request.model_path)
        if place.kind == "external_weights":
            raise InvalidRequest(
                f"{request.model_path} can't be sampled; use kind 'sampler_weights' or 'weights'"
            )
        user = session_user(request.session_id)
        manifest = services.catalog.use(caller.tenant, request.model_path, user).manifest
        found = manifest.run.base_model
        if base_model not in (None, found):
            raise InvalidRequest(
                f"base_model is {base_model!r}, but checkpoint {request.model_path} is of {found!r}"
            )
        check_policy(services.config, manifest.run.lora)
        base_model, policy = found, policy_name(place.prefix, manifest)
    if base_model is None:
        raise InvalidRequest("give base_model or model_path")
    services.model_info(base_model)
    return SamplerRecord(
        sampler_id=sampler_id,
        tenant=caller.tenant,
        session_id=request.session_id,
        base_model=base_model,
        model_path=request.model_path,
        policy=policy,
        created_at=time.time(),
    )
