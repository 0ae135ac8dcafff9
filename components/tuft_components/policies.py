"""A policy that the service samples from, and what steps share around it."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tuft_sdk
from tuft_components.episodes import EpisodeSet, Sample, play
from tuft_components.errors import BadData
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.service import connect
from tuft_components.trajectories import Transition

if TYPE_CHECKING:
    import tinker

    from tuft_components.envs.base import Environment


class ServicePolicy:
    """Samples through the Tinker SDK, which keeps many requests in flight at once."""

    def __init__(self, client: tinker.SamplingClient, sampling: Sampling) -> None:
        self._client = client
        self._sampling = sampling

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        from tinker import types

        params = types.SamplingParams(
            max_tokens=self._sampling.max_tokens,
            temperature=self._sampling.temperature,
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
            answer = await asyncio.wait_for(future.result_async(), self._sampling.timeout_s)
        samples = []
        for sequence in answer.sequences:
            if sequence.logprobs is None:
                raise BadData("the service gave no logprobs with its samples")
            samples.append(Sample(sequence.tokens, sequence.logprobs, str(sequence.stop_reason)))
        return samples


@dataclass(frozen=True)
class Sampling:
    """How a policy is sampled from, and how long an answer may take."""

    max_tokens: int
    temperature: float
    timeout_s: float


@dataclass(frozen=True)
class Played:
    """`transitions` in canonical order; of their groups, `kept_groups` were played by an earlier
    try. `uri` is where other pods find them, or empty."""

    transitions: list[Transition]
    kept_groups: int
    uri: str


def play_with_service(
    environment: Environment,
    episodes: EpisodeSet,
    sampling: Sampling,
    kept: KeptEpisodes | None = None,
) -> Played:
    """Play the episodes with the policy that `episodes.policy_name` names.

    Groups that `kept` has are not played again; each other one is added to it when it is done.

    Raises:
        tuft_sdk.SdkError: the service is away, or refuses the policy.
    """
    before = kept.read(episodes.group_ids()) if kept else {}
    transitions = [transition for group in before.values() for transition in group]
    if len(before) < len(episodes.group_ids()):
        transitions += _play_missing(environment, episodes, sampling, kept, before)
    transitions.sort(key=lambda t: (t.group_id, t.sample, t.turn))
    return Played(transitions, len(before), kept.uri if kept else "")


def _play_missing(
    environment: Environment,
    episodes: EpisodeSet,
    sampling: Sampling,
    kept: KeptEpisodes | None,
    before: Container[int],
) -> list[Transition]:
    async def keep(group_id: int, transitions: list[Transition]) -> None:
        if kept is not None:
            await asyncio.to_thread(kept.add, group_id, transitions)

    with connect(sampling.timeout_s, tokenizers=True) as client:
        sampler = client.sampling_client(episodes.policy_name)
        with tuft_sdk.translated():
            base_model = sampler.get_base_model()
        tokenizer = client.tokenizer(base_model)
        policy = ServicePolicy(sampler, sampling)
        playing = play(policy, environment, tokenizer, episodes, skip=before, on_group=keep)
        return asyncio.run(playing)
