"""Training runs are made here: from a fresh adapter, or from a checkpoint."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter

from tuft.api import schemas
from tuft.api.access import run_of, session_of
from tuft.api.deps import Authenticated, Caller, Injected, JsonBody
from tuft.api.rules import check_lora, check_optimizer, check_rank, loadable
from tuft.api.schemas import text_values
from tuft.api.services import Services
from tuft.api.uses import operation_user
from tuft.checkpoints import parse_path
from tuft.contracts.operations import (
    CreateFromCheckpoint,
    CreateModel,
    FutureRecord,
    Operation,
    digest_of,
)
from tuft.contracts.records import LoraSpec, RunRecord
from tuft.errors import Expired, InvalidRequest, NotFound

router = APIRouter()


@router.post("/create_model")
def create_model(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    request = body.parse(schemas.CreateModelRequest)
    session_of(services, caller, request.session_id)
    check_optimizer(request.optimizer_config)
    if request.lora_config is None:
        raise InvalidRequest("lora_config is missing; this service trains LoRA adapters only")
    config = services.served(request.base_model)
    check_lora(request.lora_config, services.model_info(request.base_model))
    check_rank(services, request.lora_config.rank)
    lora = LoraSpec(
        rank=request.lora_config.rank,
        alpha=config.lora_alpha,
        # A repeated request draws again; the run keeps what the first one drew, since only
        # what the client sent is in the digest.
        seed=secrets.randbits(63) if request.lora_config.seed is None else request.lora_config.seed,
        train_attn=request.lora_config.train_attn,
        train_mlp=request.lora_config.train_mlp,
        train_unembed=request.lora_config.train_unembed,
    )
    run = RunRecord(
        run_id=f"{request.session_id}:train:{request.model_seq_id}",
        tenant=caller.tenant,
        session_id=request.session_id,
        base_model=request.base_model,
        lora=lora,
        created_at=time.time(),
        user_metadata=text_values(request.user_metadata),
    )
    operation = Operation(
        run_id=run.run_id,
        seq_id=0,
        digest=digest_of(request.model_dump_json()),
        body=CreateModel(lora=lora),
        accepted_at=run.created_at,
    )
    return _create(services, run, operation, "CreateModel")


def create_from_checkpoint(
    services: Services, caller: Caller, request: schemas.LoadWeightsRequest
) -> dict[str, Any]:
    """load_weights addressed to a session: a new run that begins with a checkpoint."""
    assert request.session_id is not None
    if request.model_seq_id is None:
        raise InvalidRequest("model_seq_id goes with session_id")
    session_of(services, caller, request.session_id)
    if request.optimizer_config is not None:
        check_optimizer(request.optimizer_config)
    run_id = f"{request.session_id}:train:{request.model_seq_id}"
    repeated = _existing(services, run_id)
    if repeated is None:
        user = operation_user(run_id, 0)
        manifest = loadable(
            services, caller, request.path, optimizer=request.optimizer, user=user
        ).manifest
        base_model, lora = manifest.run.base_model, manifest.run.lora
    else:
        # The checkpoint may be gone since; the digest tells whether this is the same request.
        base_model, lora = repeated.base_model, repeated.lora
    services.model_info(base_model)
    check_rank(services, lora.rank)
    if request.base_model not in (None, base_model):
        raise InvalidRequest(
            f"base_model is {request.base_model!r}, but checkpoint {request.path} is of "
            f"{base_model!r}"
        )
    run = RunRecord(
        run_id=run_id,
        tenant=caller.tenant,
        session_id=request.session_id,
        base_model=base_model,
        lora=lora,
        created_at=time.time(),
        user_metadata=text_values(request.user_metadata),
        parent=request.path,
    )
    operation = Operation(
        run_id=run_id,
        seq_id=0,
        digest=digest_of(request.model_dump_json(exclude={"weights_access_token"})),
        body=CreateFromCheckpoint(
            path=request.path,
            prefix=parse_path(request.path).prefix,
            optimizer=request.optimizer,
        ),
        accepted_at=run.created_at,
    )
    return _create(services, run, operation, "LoadWeights")


@router.post("/get_info")
def get_info(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    run = run_of(services, caller, body.parse(schemas.ModelId).model_id)
    model = services.model_info(run.base_model)
    return {
        "type": "get_info",
        "model_id": run.run_id,
        "model_data": {
            "arch": model.architecture,
            "model_name": run.base_model,
            "tokenizer_id": model.tokenizer_id,
        },
        "is_lora": True,
        "lora_rank": run.lora.rank,
        "model_name": run.base_model,
        "optimizer_config": {"type": "adamw"},
    }


@router.post("/weights_info")
def weights_info(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    """Of a checkpoint that the caller owns, or a public one."""
    path = body.parse(schemas.TinkerPath).tinker_path
    run = services.catalog.find(caller.tenant, path).manifest.run
    return {
        "base_model": run.base_model,
        "is_lora": True,
        "lora_rank": run.lora.rank,
        "train_unembed": run.lora.train_unembed,
        "train_mlp": run.lora.train_mlp,
        "train_attn": run.lora.train_attn,
        "optimizer_config": {"type": "adamw"},
    }


def _existing(services: Services, run_id: str) -> RunRecord | None:
    try:
        return services.store.runs.get(run_id)
    except (NotFound, Expired):
        return None


def _create(
    services: Services, run: RunRecord, operation: Operation, result_type: str
) -> dict[str, Any]:
    future = FutureRecord(
        request_id=operation.request_id, tenant=run.tenant, result_type=result_type
    )
    limit = services.config.trainer.max_training_runs
    accepted = services.store.runs.create(run, operation, future, max_runs=limit)
    services.count(operation.body.kind, accepted)
    return {"request_id": accepted.request_id, "model_id": run.run_id}
