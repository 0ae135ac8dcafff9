"""Operations: what a client asked a worker to do, as it stands in the journal."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from tuft.contracts.records import LoraSpec, Record


class CreateModel(Record):
    """Operation 0 of a run: a fresh adapter."""

    kind: Literal["create_model"] = "create_model"
    lora: LoraSpec


class CreateFromCheckpoint(Record):
    """Operation 0 of a run: an adapter from a checkpoint (prefix in the object store)."""

    kind: Literal["create_from_checkpoint"] = "create_from_checkpoint"
    path: str
    prefix: str
    optimizer: bool


class ForwardBackward(Record):
    """Rows and loss are in the payload: a serialized ForwardBackwardRequest."""

    kind: Literal["forward_backward"] = "forward_backward"
    forward_only: bool
    rows: int
    tokens: int


class OptimStep(Record):
    """AdamW; `grad_clip_norm` 0 means no clipping, weight decay is decoupled."""

    kind: Literal["optim_step"] = "optim_step"
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip_norm: float


class ClearGradients(Record):
    """Forget what forward_backwards accumulated and why it must not be applied.

    A step begins with it: what a writer before it left half-done is no part of its update.
    """

    kind: Literal["clear_gradients"] = "clear_gradients"


class SaveWeights(Record):
    """A training checkpoint, with optimizer state."""

    kind: Literal["save_weights"] = "save_weights"
    name: str
    overwrite: bool = False
    ttl_seconds: int | None = None
    user_metadata: dict[str, str] = {}
    step_key: str | None = None


class SaveWeightsForSampler(Record):
    """A policy for samplers: named (a checkpoint), or ephemeral (a sampling session)."""

    kind: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"
    name: str | None = None
    sampler_id: str | None = None
    ttl_seconds: int | None = None
    user_metadata: dict[str, str] = {}
    step_key: str | None = None


class LoadWeights(Record):
    """Replace the weights (and with `optimizer` its state) of an existing run."""

    kind: Literal["load_weights"] = "load_weights"
    path: str
    prefix: str
    optimizer: bool


OperationBody = Annotated[
    CreateModel
    | CreateFromCheckpoint
    | ForwardBackward
    | OptimStep
    | ClearGradients
    | SaveWeights
    | SaveWeightsForSampler
    | LoadWeights,
    Field(discriminator="kind"),
]


class Operation(Record):
    """One entry of a run's journal; `(run_id, seq_id)` is its identity.

    `digest` is of the decoded content: the SDK's bytes are not stable from try to try.
    `payload_object` names the payload in the object store where it is large; a small one
    is kept in the store beside the entry.
    """

    run_id: str
    seq_id: int
    digest: str
    body: OperationBody
    accepted_at: float
    payload_object: str | None = None

    @property
    def request_id(self) -> str:
        return request_id_of(self.run_id, self.seq_id)


class Tombstone(Record):
    """A seq_id that was refused for good, or never arrived; nothing will run under it.

    `poisons` says that it may have been a forward_backward: the next optim_step must then
    fail and clear the gradients, since a partial gradient is never applied.
    """

    run_id: str
    seq_id: int
    reason: str
    poisons: bool
    status: int = 400
    """HTTP status of the refusal, for the same answer to a repeated request."""


class SamplingParams(Record):
    """`stop` None: the model's EOS tokens. An empty list: no stop at all."""

    max_tokens: int
    seed: int | None = None
    stop_strings: list[str] = []
    stop_tokens: list[int] = []
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0


class SampleOperation(Record):
    """One asample request. `prompt` are token ids."""

    request_id: str
    sampler_id: str
    base_model: str
    policy: str | None
    tenant: str
    digest: str
    prompt: list[int]
    num_samples: int
    params: SamplingParams
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    accepted_at: float


class FutureRecord(Record):
    """What `retrieve_future` answers from. The body of a done one is kept beside it.

    `content`: "proto" (application/x-protobuf) or "json". `result_type` is the SDK's name
    of the request, for messages. `category` is "user" or "server".
    """

    request_id: str
    tenant: str
    result_type: str
    status: Literal["pending", "done", "failed"] = "pending"
    content: Literal["json", "proto"] = "json"
    body_object: str | None = None
    error: str | None = None
    category: Literal["user", "server"] = "server"


def request_id_of(run_id: str, seq_id: int) -> str:
    """The request id is derived from the identity, so that a repeat gets the same one."""
    return f"{run_id}:{seq_id}"


def digest_of(*parts: bytes | str) -> str:
    """sha256 (hex) over the parts, each preceded by its length."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()
