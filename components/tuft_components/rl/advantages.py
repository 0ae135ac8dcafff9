"""Advantages of episodes from their rewards.

Each estimator takes `rewards` float [N] and `groups` int [N] (episodes with the same number
answered the same prompt) and returns float32 [N]. Arithmetic is float64. A group whose rewards
are all equal says nothing about what was better: where the baseline is the group's, its
advantages are exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft_components.errors import BadConfiguration

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Estimator = Callable[[npt.NDArray[Any], npt.NDArray[Any]], Floats]

_EPSILON = 1e-6


def grpo(rewards: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Floats:
    """(r - mean) / (std + 1e-6) within the group, std of the population.

    Source: GRPO in DeepSeekMath, arXiv 2402.03300, §4.1.2 (outcome supervision).
    """
    return _per_group(rewards, groups, lambda r: (r - r.mean()) / (r.std() + _EPSILON))


def grpo_no_std(rewards: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Floats:
    """r - mean within the group: no weight on how hard the prompt was.

    Source: Dr. GRPO, arXiv 2503.20783, §3.2.
    """
    return _per_group(rewards, groups, lambda r: r - r.mean())


def rloo(rewards: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Floats:
    """r - mean of the others in the group; 0 in a group of one.

    Source: REINFORCE leave-one-out, arXiv 2402.14740, §2.3.
    """

    def leave_one_out(r: Doubles) -> Doubles:
        others: Doubles = (r.sum() - r) / (len(r) - 1)
        return r - others

    return _per_group(rewards, groups, leave_one_out)


def reinforce_pp(rewards: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Floats:
    """(r - mean) / (std + 1e-6) over the whole batch, whatever the groups.

    Source: REINFORCE++, arXiv 2501.03262, global advantage normalisation (without its
    per-token KL term).
    """
    return grpo(rewards, np.zeros_like(groups))


def mean_baseline(rewards: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Floats:
    """r - mean over the whole batch, whatever the groups.

    Source: REINFORCE with a baseline, Williams 1992.
    """
    return grpo_no_std(rewards, np.zeros_like(groups))


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "grpo": grpo,
        "grpo_no_std": grpo_no_std,
        "rloo": rloo,
        "reinforce_pp": reinforce_pp,
        "mean_baseline": mean_baseline,
    }
)


def estimator(name: str) -> Estimator:
    """Raises:
    BadConfiguration: no estimator of that name.
    """
    if name not in ESTIMATORS:
        raise BadConfiguration(f"no advantage {name!r}; there are: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def _per_group(
    rewards: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    formula: Callable[[Doubles], Doubles],
) -> Floats:
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {rewards.shape} and groups {groups.shape} must both be [N]")
    advantages = np.zeros(len(rewards), dtype=np.float64)
    for group in np.unique(groups):
        members = groups == group
        values = rewards[members].astype(np.float64)
        if values.min() != values.max():  # equal rewards: 0, not rounding noise over epsilon
            advantages[members] = formula(values)
    return advantages.astype(np.float32)
