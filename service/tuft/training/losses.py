"""The losses of `tuft.contracts.losses`, as pure functions of the targets' logprobs.

Each is a sum over tokens; here are its terms, which depend on one token each. With lp = log p(target), q = `logprobs`, A = `advantages` and
r = exp(lp - q):

    cross_entropy        -sum(weights * lp), weights 1 where they are absent
    importance_sampling  -sum(r * A)
    ppo                  -sum(min(r * A, clip(r, low, high) * A))
    cispo                -sum(detach(clip(r, low, high)) * lp * A)
    dro                  -sum(lp * A - beta / 2 * (lp - q)^2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tuft.contracts.losses import LOSSES
from tuft.contracts.wire import LossConfig
from tuft.errors import InvalidRequest

Inputs = Mapping[str, Tensor]
Config = Mapping[str, float]


def token_losses(name: str, logprobs: Tensor, inputs: Inputs, config: LossConfig) -> Tensor:
    """The terms of a loss, which is their sum.

    Args:
        name: a key of `contracts.losses.LOSSES`.
        logprobs: float32, any shape; of the target tokens.
        inputs: float32 tensors of the same shape, as the loss's LossSpec names them.
        config: values for the spec's config keys; the defaults hold for those left out.

    Returns:
        float32 in the shape of `logprobs`, differentiable in them.

    Raises:
        InvalidRequest: no such loss.
    """
    spec = LOSSES.get(name)
    if spec is None or name not in _FUNCTIONS:
        raise InvalidRequest(f"loss_fn {name!r} is not served; use one of {sorted(_FUNCTIONS)}")
    settings = {key: float(config.get(key, default)) for key, default in spec.config.items()}
    return _FUNCTIONS[name](logprobs, inputs, settings)


def _cross_entropy(lp: Tensor, inputs: Inputs, _config: Config) -> Tensor:
    weights = inputs.get("weights")
    return -lp if weights is None else -(weights * lp)


def _importance_sampling(lp: Tensor, inputs: Inputs, _config: Config) -> Tensor:
    return -(_ratio(lp, inputs) * inputs["advantages"])


def _ppo(lp: Tensor, inputs: Inputs, config: Config) -> Tensor:
    ratio, advantages = _ratio(lp, inputs), inputs["advantages"]
    return -torch.minimum(ratio * advantages, _clip(ratio, config) * advantages)


def _cispo(lp: Tensor, inputs: Inputs, config: Config) -> Tensor:
    clipped = _clip(_ratio(lp.detach(), inputs), config)
    return -(clipped * lp * inputs["advantages"])


def _dro(lp: Tensor, inputs: Inputs, config: Config) -> Tensor:
    drift = lp - inputs["logprobs"]
    return -(lp * inputs["advantages"] - config["beta"] / 2 * drift.square())


def _ratio(lp: Tensor, inputs: Inputs) -> Tensor:
    return torch.exp(lp - inputs["logprobs"])


def _clip(ratio: Tensor, config: Config) -> Tensor:
    return ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])


_FUNCTIONS: Mapping[str, Callable[[Tensor, Inputs, Config], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "importance_sampling": _importance_sampling,
    "ppo": _ppo,
    "cispo": _cispo,
    "dro": _dro,
}
