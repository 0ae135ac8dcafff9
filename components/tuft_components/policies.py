"""A policy that the service samples from, and what steps share around it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tuft_sdk
from tuft_components.episodes import EpisodeSet, Sample, play
from tuft_components.errors import BadData
from tuft_components.service import connect
from tuft_components.trajectories import Transition

if TYPE_CHECKING:
    import tinker

    from tuft_components.envs.base import Environment


class ServicePolicy:
    """Samples through the Tinker SDK, which keeps many requests in flight at once."""

    def __init__(
        self,
        client: tinker.SamplingClient,
        *,
        max_tokens: int,
        temperature: float,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._timeout_s = timeout_s

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        from tinker import types

        params = types.SamplingParams(
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=seed,
            # Absent, the model's end-of-text token ends a completion; a list replaces that.
            stop=list(stop) or None,
        )
        with tuft_sdk.translated():
            future = self._client.sample(
                prompt=types.ModelInput.from_ints(list(prompt)),
                num_samples=count,
                sampling_params=params,
            )
            answer = await asyncio.wait_for(future.result_async(), self._timeout_s)
        samples = []
        for sequence in answer.sequences:
            if sequence.logprobs is None:
                raise BadData("the service gave no logprobs with its samples")
            samples.append(Sample(sequence.tokens, sequence.logprobs, str(sequence.stop_reason)))
        return samples


def play_with_service(
    environment: Environment,
    episodes: EpisodeSet,
    *,
    max_tokens: int,
    temperature: float,
    timeout_s: float,
) -> list[Transition]:
    """Play the episodes with the policy that `episodes.policy_name` names.

    Raises:
        tuft_sdk.SdkError: the service is away, or refuses the policy.
    """
    with connect(timeout_s, tokenizers=True) as client:
        sampler = client.sampling_client(episodes.policy_name)
        with tuft_sdk.translated():
            base_model = sampler.get_base_model()
        tokenizer = client.tokenizer(base_model)
        policy = ServicePolicy(
            sampler, max_tokens=max_tokens, temperature=temperature, timeout_s=timeout_s
        )
        return asyncio.run(play(policy, environment, tokenizer, episodes))
