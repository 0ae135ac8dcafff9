"""How busy a rollout of many episodes keeps the sampler.

64 episodes of number guess at once, several turns each, through the step's own code. The sampler has
one thread, so that its CPU time over wall-clock time is the share of the time that it computes; the
client has the other core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median

from tests.bench.measure import report
from tests.bench.stage import Model, Stage, models, stage
from tuft_components.envs import make_environment
from tuft_components.episodes import EpisodeSet, Limits
from tuft_components.policies import Played, Sampling, play_with_service

REACH = 0.9
_SAMPLING = Sampling(max_tokens=4, temperature=1.0, timeout_s=600)


def measure(model: Model, episodes: int, at_once: int, rounds: int) -> None:
    with stage(model, dtype="auto", sampler={"threads": 1}) as on:
        os.environ |= {"TINKER_BASE_URL": on.service.url, "TINKER_API_KEY": "tml-bench-0000"}
        played = [_round(on, number, episodes, at_once) for number in range(rounds + 1)][1:]
    busy = median(share for share, _, _ in played)
    tokens = median(each.outcome.tokens / each.outcome.seconds for _, _, each in played)
    print(f"{model.name}: {episodes} episodes of number guess, {at_once} at once")
    print(f"  sampler busy {busy:.2f}, {tokens:.0f} new tokens/s")
    print(f"  turns/s {median(len(each.transitions) / s for _, s, each in played):.0f}")
    report(
        f"sampler busy, {at_once} episodes of number guess at once, {model.name}", ">=", REACH, busy
    )


def _round(on: Stage, number: int, episodes: int, at_once: int) -> tuple[float, float, Played]:
    """Share of the time that the sampler computes, seconds of playing, and what was played."""
    before = on.clock()["sampler"]
    played = play_with_service(
        make_environment("number_guess", {}),
        EpisodeSet(
            env="number_guess",
            split="train",
            seed=0,
            first_index=0,
            groups=episodes // 8,
            group_size=8,
            iteration=number,
            policy_name=on.model.name,
            limits=Limits(max_turns=3),
            concurrency=at_once,
        ),
        _SAMPLING,
    )
    # Connecting and the tokenizer come before it: the sampler does nothing then.
    seconds = played.outcome.seconds
    return (on.clock()["sampler"] - before) / seconds, seconds, played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--models", nargs="+", default=["SmolLM2"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), options.models):
            measure(model, options.episodes, options.at_once, options.rounds)


if __name__ == "__main__":
    main()
