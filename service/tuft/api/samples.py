"""From an asample request to the operation that a sampler takes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tuft.api.schemas import SampleRequest, SamplingParamsRequest
from tuft.api.validation import check_tokens
from tuft.contracts.operations import SampleOperation, SamplingParams, digest_of
from tuft.contracts.records import ModelInfo, SamplerRecord
from tuft.errors import InvalidRequest

MAX_TOPK = 256
MAX_STOPS = 64
_MAX_STOP_CHARACTERS = 1024


def sample_request_id(sampler_id: str, seq_id: int) -> str:
    """Derived from the identity, so that a repeat gets the same one."""
    return f"{sampler_id}:{seq_id}"


def sequence_ids(request_id: str, num_samples: int) -> list[str]:
    """Exactly `num_samples` ids, the same for a repeat: the SDK asserts the number."""
    return [f"{request_id}:{index}" for index in range(num_samples)]


def to_operation(
    request: SampleRequest, sampler: SamplerRecord, model: ModelInfo, max_num_samples: int
) -> SampleOperation:
    """Validate against the model.

    Raises:
        InvalidRequest: what is out of range, not served, or too long; names the field.
    """
    _refuse_unserved(request)
    if request.num_samples > max_num_samples:
        raise InvalidRequest(
            f"num_samples is {request.num_samples}; at most {max_num_samples} are served"
        )
    prompt = _prompt_tokens(request.prompt.chunks, model)
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs"):
        limit = min(MAX_TOPK, model.vocab_size)
        if getattr(request, name) > limit:
            raise InvalidRequest(f"{name} is {getattr(request, name)}; the limit is {limit}")
    assert request.seq_id is not None  # checked by _refuse_unserved
    scored = bool(request.prompt_logprobs)
    return SampleOperation(
        request_id=sample_request_id(sampler.sampler_id, request.seq_id),
        sampler_id=sampler.sampler_id,
        base_model=sampler.base_model,
        policy=sampler.policy,
        tenant=sampler.tenant,
        digest=digest_of(request.model_dump_json(exclude={"type"})),
        prompt=prompt,
        num_samples=request.num_samples,
        params=_params(request.sampling_params, len(prompt), model, scored=scored),
        prompt_logprobs=scored,
        topk_prompt_logprobs=request.topk_prompt_logprobs,
        topk_sample_logprobs=request.topk_sample_logprobs,
        accepted_at=time.time(),
    )


def _refuse_unserved(request: SampleRequest) -> None:
    if request.sampling_session_id is None or request.seq_id is None:
        raise InvalidRequest(
            "sampling_session_id and seq_id are required: make a session with "
            "create_sampling_session"
        )
    for name, asked in (
        ("base_model", request.base_model is not None),
        ("model_path", request.model_path is not None),
        ("target_prompt_logprobs", request.target_prompt_logprobs is not None),
        ("prompt_alt_tokens_k", request.prompt_alt_tokens_k > 0),
        ("prompt_logprobs_last_n", request.prompt_logprobs_last_n is not None),
        ("record_stability_info", bool(request.record_stability_info)),
    ):
        if asked:
            raise InvalidRequest(f"{name} is not served by this service; leave it out")


def _prompt_tokens(chunks: list[dict[str, Any]], model: ModelInfo) -> list[int]:
    tokens: list[int] = []
    for index, chunk in enumerate(chunks):
        where = f"prompt.chunks[{index}]"
        kind = chunk.get("type", "encoded_text")
        if kind != "encoded_text":
            raise InvalidRequest(f"{where} is of type {kind!r}; this service takes: 'encoded_text'")
        values = chunk.get("tokens")
        if not isinstance(values, list) or any(type(value) is not int for value in values):
            raise InvalidRequest(f"{where}.tokens must be a list of integers")
        # A JSON integer may be larger than any array element.
        if values and (max(values) > 2**31 - 1 or min(values) < -(2**31)):
            raise InvalidRequest(
                f"{where}.tokens: token ids of this model are 0 to {model.vocab_size - 1}"
            )
        check_tokens(f"{where}.tokens", np.asarray(values, dtype=np.int64), model.vocab_size)
        tokens += values
    if not tokens:
        raise InvalidRequest("prompt is empty; it needs at least one token")
    return tokens


def _params(
    asked: SamplingParamsRequest, prompt_len: int, model: ModelInfo, *, scored: bool
) -> SamplingParams:
    room = model.max_model_len - prompt_len
    # compute_logprobs asks for one token that nobody reads: a prompt as long as the context can
    # be scored, and its sample is empty.
    score_only = scored and room == 0
    if room < 1 and not score_only:
        raise InvalidRequest(
            f"prompt has {prompt_len} tokens; with at least one sampled token it must be under "
            f"max_model_len, which is {model.max_model_len}"
        )
    max_tokens = room if asked.max_tokens is None else asked.max_tokens
    if max_tokens > room and not score_only:
        raise InvalidRequest(
            f"prompt has {prompt_len} tokens and sampling_params.max_tokens is {max_tokens}; "
            f"together they must be at most max_model_len, which is {model.max_model_len}"
        )
    strings, tokens = _stops(asked.stop, model)
    return SamplingParams(
        max_tokens=max_tokens,
        seed=asked.seed,
        stop_strings=strings,
        stop_tokens=tokens,
        temperature=asked.temperature,
        top_k=asked.top_k or -1,
        top_p=asked.top_p,
    )


def _stops(
    stop: str | list[str] | list[int] | None, model: ModelInfo
) -> tuple[list[str], list[int]]:
    """Stop strings and tokens. Absent: the model's EOS. An empty list: nothing stops."""
    if stop is None:
        return [], list(model.eos_token_ids)
    strings = [stop] if isinstance(stop, str) else [s for s in stop if isinstance(s, str)]
    tokens = [] if isinstance(stop, str) else [t for t in stop if isinstance(t, int)]
    if len(strings) + len(tokens) > MAX_STOPS:
        raise InvalidRequest(f"sampling_params.stop has more than {MAX_STOPS} entries")
    for text in strings:
        if not 0 < len(text) <= _MAX_STOP_CHARACTERS:
            raise InvalidRequest(
                "sampling_params.stop: a stop string must have 1 to "
                f"{_MAX_STOP_CHARACTERS} characters"
            )
    for token in tokens:
        if not 0 <= token < model.vocab_size:
            raise InvalidRequest(
                f"sampling_params.stop: {token} is no token of this model, whose ids are 0 to "
                f"{model.vocab_size - 1}"
            )
    return strings, tokens
