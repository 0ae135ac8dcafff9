"""What any engine refuses: requests that the model can't take."""

from __future__ import annotations

from tuft.contracts.operations import SampleOperation
from tuft.contracts.records import ModelInfo
from tuft.errors import InvalidRequest
from tuft.sampling.stops import Detokenizer


def check_request(
    request: SampleOperation, info: ModelInfo, detokenizer: Detokenizer | None
) -> None:
    """Raises InvalidRequest, with what would be right."""
    prompt, vocab, limit = request.prompt, info.vocab_size, info.max_model_len
    if not prompt:
        raise InvalidRequest("the prompt is empty; it needs at least one token")
    if len(prompt) > limit:
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens; {request.base_model} takes at most {limit}"
        )
    if min(prompt) < 0 or max(prompt) >= vocab:
        raise InvalidRequest(
            f"the prompt has token {max(prompt) if max(prompt) >= vocab else min(prompt)}; "
            f"tokens of {request.base_model} are 0 to {vocab - 1}"
        )
    if request.params.stop_strings and detokenizer is None:
        raise InvalidRequest(
            f"{request.base_model} has no tokenizer here, so stop strings can't be matched; "
            "give stop tokens"
        )


def diverged(request: SampleOperation) -> InvalidRequest:
    """The answer where logits are NaN or infinite."""
    policy = request.policy
    who = request.base_model if policy is None else f"the policy {policy}"
    return InvalidRequest(
        f"{who} gives NaN or infinite logits for this prompt: its weights have diverged"
    )
