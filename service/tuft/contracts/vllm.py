"""What the vLLM engine can't serve, so that the api refuses it before anything is queued."""

from __future__ import annotations

from tuft.config import ServiceConfig
from tuft.contracts.operations import SamplingParams
from tuft.contracts.records import LoraSpec
from tuft.errors import InvalidRequest

# vLLM takes a smaller temperature for this one, without a word in the answer.
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 2.0


def check_policy(config: ServiceConfig, lora: LoraSpec) -> None:
    """Whether the configured sampler can serve a policy. Raises InvalidRequest."""
    if config.sampler.engine != "vllm":
        return
    # vLLM's LoRA on the head breaks the prompt logprobs of all requests in its batch.
    if lora.train_unembed:
        raise InvalidRequest(
            "this service samples with vLLM, which is not given LoRA on lm_head: "
            "train with train_unembed=False to sample here"
        )
    limit = config.vllm_lora_rank
    if limit is not None and lora.rank > limit:
        raise InvalidRequest(
            f"the policy has LoRA rank {lora.rank}; this service's vLLM serves ranks up to "
            f"{limit} (sampler.vllm.max_lora_rank)"
        )


def check_params(config: ServiceConfig, params: SamplingParams) -> None:
    """Whether the configured sampler can sample like this. Raises InvalidRequest."""
    if config.sampler.engine == "vllm":
        check_temperature(params)


def check_temperature(params: SamplingParams) -> None:
    """Raises InvalidRequest for what vLLM would refuse, or replace."""
    if params.temperature and not MIN_TEMPERATURE <= params.temperature <= MAX_TEMPERATURE:
        raise InvalidRequest(
            f"temperature is {params.temperature}; this service samples with vLLM, which takes "
            f"0 and {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
        )
