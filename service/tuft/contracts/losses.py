"""What each loss needs: the api validates with this, the trainer computes with it.

Input position i predicts token i+1; the client has shifted already, so all loss tensors have
the length of the model input. Every loss is a sum over tokens and rows, never a mean.
Thresholds are absolute bounds on the probability ratio, not epsilons.
Sources: tinker-docs "Losses"; PPO (arXiv 1707.06347), CISPO (arXiv 2506.13585), DRO (arXiv
2405.19107).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class LossSpec:
    """Names of the loss_fn_inputs that must and may be there, and config keys with defaults.

    `target_tokens` is int64, all others float32; each has the shape of `target_tokens`,
    which is [N], or [N, K] where `allows_k`.
    """

    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    config: Mapping[str, float] = field(default_factory=dict)
    allows_k: bool = False
    factor: str | None = None
    """The input that the whole gradient is a multiple of: where it is 0, there is none."""


_RL = frozenset({"target_tokens", "logprobs", "advantages"})

LOSSES: Mapping[str, LossSpec] = MappingProxyType(
    {
        "cross_entropy": LossSpec(
            required=frozenset({"target_tokens"}),
            optional=frozenset({"weights"}),
            allows_k=True,
            factor="weights",
        ),
        "importance_sampling": LossSpec(required=_RL, factor="advantages"),
        "ppo": LossSpec(
            required=_RL,
            config={"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
            factor="advantages",
        ),
        "cispo": LossSpec(
            required=_RL,
            config={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
            factor="advantages",
        ),
        "dro": LossSpec(required=_RL, config={"beta": 0.05}),
    }
)
