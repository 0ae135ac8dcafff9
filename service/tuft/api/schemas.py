"""Request bodies of the Tinker API.

A field that is not known is an error: to ignore it could mean to train or sample something
else than what was asked. Only what has no effect on results (session tags, telemetry) is open.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt

TTL_MIN_S = 3600
TTL_MAX_S = 10 * 365 * 86400
MAX_METADATA_BYTES = 64 * 1024

SeqId = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Ttl = Annotated[StrictInt, Field(ge=TTL_MIN_S, le=TTL_MAX_S)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Id = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(max_length=1024)]


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata is kept in memory, with every run and checkpoint."""
    size = len(json.dumps(metadata))
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"has {size} bytes as JSON; at most {MAX_METADATA_BYTES} are kept")
    return metadata


Metadata = Annotated[dict[str, Any], AfterValidator(_small)]
TextMetadata = Annotated[dict[str, str], AfterValidator(_small)]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Open(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class CreateSession(Open):
    tags: Annotated[list[Name], Field(max_length=100)] = []
    user_metadata: Metadata | None = None
    sdk_version: Name = ""
    project_id: Name | None = None
    display_name: Name | None = None


class SessionId(Open):
    session_id: Id


class FinishReason(Open):
    type: Literal["success", "errored", "interrupted"]


class FinishSession(Open):
    reason: FinishReason
    detail: str | None = None


class AssignProject(Closed):
    project_id: Name


class LoraRequest(Closed):
    rank: StrictInt
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    train_unembed: StrictBool = True
    train_mlp: StrictBool = True
    train_attn: StrictBool = True


class OptimizerRequest(Open):
    type: Name


class CreateModelRequest(Closed):
    session_id: Id
    model_seq_id: SeqId
    base_model: Name
    lora_config: LoraRequest | None = None
    user_metadata: Metadata | None = None
    optimizer_config: OptimizerRequest = OptimizerRequest(type="adamw")
    type: Literal["create_model"] = "create_model"


class ModelId(Open):
    model_id: Id


class TinkerPath(Open):
    tinker_path: Name


class AdamRequest(Closed):
    """eps 0 would divide zero by zero at the first step, where A's gradient is zero."""

    learning_rate: NonNegative = 1e-4
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-12
    weight_decay: NonNegative = 0.0
    grad_clip_norm: NonNegative = 0.0


class TrainingRequest(Open):
    """What every JSON request to a training run has: its place in the journal."""

    model_id: Id
    seq_id: Annotated[StrictInt, Field(ge=1, lt=2**31)]


class OptimStepRequest(Closed):
    model_id: Id
    seq_id: SeqId
    adam_params: AdamRequest | None = None
    optimizer_params: OptimizerRequest | None = None
    type: Literal["optim_step"] = "optim_step"


class SaveWeightsRequest(Closed):
    model_id: Id
    seq_id: SeqId
    path: Name | None = None
    ttl_seconds: Ttl | None = None
    overwrite: StrictBool = False
    user_metadata: TextMetadata | None = None
    type: Literal["save_weights"] = "save_weights"


class SaveWeightsForSamplerRequest(Closed):
    model_id: Id
    seq_id: SeqId
    path: Name | None = None
    sampling_session_seq_id: SeqId | None = None
    kind: Name = "snapshot"
    ttl_seconds: Ttl | None = None
    user_metadata: TextMetadata | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class LoadWeightsRequest(Closed):
    """`weights_access_token` (another account's token) is accepted and of no effect."""

    path: Name
    optimizer: StrictBool
    model_id: Id | None = None
    seq_id: SeqId | None = None
    session_id: Id | None = None
    model_seq_id: SeqId | None = None
    base_model: Name | None = None
    user_metadata: Metadata | None = None
    optimizer_config: OptimizerRequest | None = None
    weights_access_token: str | None = None
    type: Literal["load_weights"] = "load_weights"


class CreateSamplingSessionRequest(Closed):
    session_id: Id
    sampling_session_seq_id: SeqId
    base_model: Name | None = None
    model_path: Name | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


class SamplingParamsRequest(Closed):
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | list[StrictInt] | None = None
    temperature: NonNegative = 1.0
    top_k: Annotated[StrictInt, Field(ge=-1)] = -1
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0


class PromptRequest(Closed):
    chunks: list[dict[str, Any]]


class SampleRequest(Closed):
    sampling_session_id: Id | None = None
    seq_id: SeqId | None = None
    prompt: PromptRequest
    sampling_params: SamplingParamsRequest
    num_samples: Annotated[StrictInt, Field(ge=1)] = 1
    prompt_logprobs: StrictBool | None = None
    topk_prompt_logprobs: Annotated[StrictInt, Field(ge=0)] = 0
    topk_sample_logprobs: Annotated[StrictInt, Field(ge=0)] = 0
    base_model: Name | None = None
    model_path: Name | None = None
    target_prompt_logprobs: dict[str, Any] | None = None
    prompt_alt_tokens_k: Annotated[StrictInt, Field(ge=0)] = 0
    prompt_logprobs_last_n: StrictInt | None = None
    record_stability_info: StrictBool | None = None
    type: Literal["sample"] = "sample"


class RetrieveFuture(Open):
    request_id: Annotated[str, Field(min_length=1, max_length=600)]


class SetTtl(Closed):
    ttl_seconds: Ttl | None


class Attach(Closed):
    """`writer`: a name that the client makes up, so that a repeated request changes nothing."""

    writer: Annotated[str, Field(max_length=64)] = ""


class ClearGradients(Closed):
    seq_id: SeqId
    step_key: Annotated[str, Field(min_length=1, max_length=512)]


class BeginStep(Closed):
    scope: Id
    step_key: Annotated[str, Field(min_length=1, max_length=512)]
    writer_epoch: Annotated[StrictInt, Field(ge=0)] | None = None
    first_seq_id: SeqId | None = None


class StepAttempt(Closed):
    """Attempt `number` at a step submits its plan from an operation on, under new seq_ids."""

    scope: Id
    step_key: Annotated[str, Field(min_length=1, max_length=512)]
    writer_epoch: Annotated[StrictInt, Field(ge=0)] | None = None
    number: Annotated[StrictInt, Field(ge=1, le=1000)]
    first_operation: Annotated[StrictInt, Field(ge=0)]
    first_seq_id: SeqId


class FinishStep(Closed):
    scope: Id
    step_key: Annotated[str, Field(min_length=1, max_length=512)]
    writer_epoch: Annotated[StrictInt, Field(ge=0)] | None = None
    result: Annotated[str, Field(max_length=1024 * 1024)]


def text_values(metadata: dict[str, Any] | None) -> dict[str, str]:
    """User metadata as it is kept; the SDK's type allows any value, what it reads is text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (metadata or {}).items()
    }
