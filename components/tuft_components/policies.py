"""A policy that the service samples from, and what steps share around it."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import tuft_sdk
from tuft_components.episodes import EpisodeSet, Sample
from tuft_components.errors import BadData
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.playing import Outcome, play
from tuft_components.service import connect
from tuft_components.trajectories import Transition

if TYPE_CHECKING:
    import tinker

    from tuft_components.envs.base import EnvironmentFamily


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
    try, and `outcome` is what came of the others. `uri` is where other pods find them, or empty."""

    transitions: list[Transition]
    outcome: Outcome
    kept_groups: int
    uri: str

    def metrics(self) -> dict[str, float]:
        """How the playing went."""
        episodes = {(t.group_id, t.sample): t.end for t in self.transitions}
        ends = list(episodes.values())
        outcome = self.outcome
        return {
            "groups_kept": float(self.kept_groups),
            "groups_left_out": float(outcome.left_out),
            # Those that could not even begin have no transitions.
            "failed": float(ends.count("failed") + outcome.never_begun),
            "cut_short": float(sum(end in ("turns", "context", "budget") for end in ends)),
            "tokens_per_s": outcome.tokens / outcome.seconds if outcome.seconds else 0.0,
        }


def play_with_service(
    environment: EnvironmentFamily,
    episodes: EpisodeSet,
    sampling: Sampling,
    kept: KeptEpisodes | None = None,
) -> Played:
    """Play the episodes with the policy that `episodes.policy_name` names.

    Groups that `kept` has are not played again; each other one is added to it when it is done.

    Raises:
        BadData: not one episode is left to judge. StepError: too many failed.
        tuft_sdk.SdkError: the service is away, or refuses the policy.
    """
    before = kept.read(episodes.group_ids()) if kept else {}
    outcome = Outcome()
    if len(before) < len(episodes.group_ids()):
        outcome = _play_missing(environment, episodes, sampling, kept, before)
    transitions = [each for group in before.values() for each in group] + outcome.transitions
    transitions.sort(key=lambda t: (t.group_id, t.sample, t.turn))
    return Played(transitions, outcome, len(before), kept.uri if kept else "")


def _play_missing(
    environment: EnvironmentFamily,
    episodes: EpisodeSet,
    sampling: Sampling,
    kept: KeptEpisodes | None,
    before: Container[int],
) -> Outcome:
    async def keep(group_id: int, transitions: list[Transition]) -> None:
        if kept is not None:
            await asyncio.to_thread(kept.add, group_id, transitions)

    with connect(sampling.timeout_s, tokenizers=True) as client:
        sampler = client.sampling_client(episodes.policy_name)
        with tuft_sdk.translated():
            base_model = sampler.get_base_model()
        tokenizer = client.tokenizer(base_model)
        room = client.context_length(base_model) - sampling.max_tokens
        bounded = replace(episodes, limits=replace(episodes.limits, longest_prompt=room))
        policy = ServicePolicy(sampler, sampling)
        playing = play(policy, environment, tokenizer, bounded, skip=before, on_group=keep)
        return asyncio.run(playing)
