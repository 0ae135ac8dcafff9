"""tinker:// paths of what a training run saves."""

from __future__ import annotations

import re

from tuft_sdk.errors import ConfigurationError

_PATH = re.compile(r"tinker://([^/]+)/(weights|sampler_weights)/([^/]+)")


def sampler_path(run_id: str, name: str) -> str:
    """Of a policy that can be sampled from."""
    return f"tinker://{run_id}/sampler_weights/{name}"


def checkpoint_path(run_id: str, name: str) -> str:
    """Of a training checkpoint: weights and optimizer."""
    return f"tinker://{run_id}/weights/{name}"


def parse_path(path: str) -> tuple[str, str, str]:
    """Run, kind and name of a checkpoint or policy.

    Raises:
        ConfigurationError: it is none.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ConfigurationError(
            f"{path!r} is not the path of a checkpoint or policy; it must be "
            "tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME"
        )
    run_id, kind, name = match.groups()
    return run_id, kind, name
