"""Many conversations at once: what the turns cost, beside reading each turn from its beginning.

Every turn adds some tokens to what was said before and samples an answer, as agents do in their
environments. The engine alone, in this process. To compare, each turn belongs to another tenant:
tenants share nothing, so that all of the conversation is read again.
"""

from __future__ import annotations

import argparse
import random
from itertools import count

from tests.bench.bench_sampling import make_engine
from tests.bench.measure import here, in_turn, report
from tests.service.sampling.harness import ask, run
from tuft.sampling.transformers_engine import TransformersEngine

_FIRST, _NEW, _ANSWER = 64, 24, 2
_REACH = 2.0
_seeds = count()


def talk(engine: TransformersEngine, conversations: int, turns: int, *, again: bool) -> None:
    """All conversations, turn by turn. `again`: nothing that was read before is used."""
    generator = random.Random(next(_seeds))

    def tokens(number: int) -> list[int]:
        return [generator.randrange(1000, 40000) for _ in range(number)]

    said = [tokens(_FIRST) for _ in range(conversations)]
    for turn in range(turns):
        tenant = f"turn-{turn}" if again else "one"
        asked = [
            ask(prompt, tenant=tenant, policy="policy-0", max_tokens=_ANSWER) for prompt in said
        ]
        for prompt, result in zip(said, run(engine, *asked), strict=True):
            known = result.prompt_cache_hit_tokens
            assert known == (0 if again or turn == 0 else len(prompt) - _NEW - _ANSWER), known
            prompt += [*result.sequences[0].tokens.tolist(), *tokens(_NEW)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--turns", type=int, default=6)
    options = parser.parse_args()
    engine = make_engine("float32")
    how = (engine, options.conversations, options.turns)
    costs = in_turn(
        {
            "turn by turn": here(lambda: talk(*how, again=False)),
            "from the beginning": here(lambda: talk(*how, again=True)),
        },
        options.rounds,
    )
    for name, cost in costs.items():
        print(f"  {name:<20}{cost.wall:8.1f} s")
    report(
        f"{options.conversations} conversations of {options.turns} turns at once, SmolLM2: reading all "
        "again / reading what is new",
        ">=",
        _REACH,
        costs["from the beginning"].wall / costs["turn by turn"].wall,
    )


if __name__ == "__main__":
    main()
