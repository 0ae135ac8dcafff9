"""Environments by name: a registered one, or `package.module:attribute`.

What is named is called with the step's `env_args` and returns an `Environment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuft_components.envs.base import Environment
from tuft_components.errors import BadConfiguration
from tuft_components.names import resolve
from tuft_components.user_code import user_code

ENVIRONMENTS: dict[str, str] = {
    "second_word": "tuft_components.envs.second_word:SecondWord",
}


def make_environment(name: str, args: Mapping[str, Any]) -> Environment:
    """Raises:
    BadConfiguration: no such environment, or arguments that it does not take.
    BadData: it raised something else.
    """
    factory = resolve(name, ENVIRONMENTS, "environment")
    with user_code(f"environment {name}"):
        try:
            environment: Environment = factory(**args)
        except (TypeError, ValueError) as error:  # it tells what is wrong with them
            raise BadConfiguration(
                f"environment {name} with env_args {dict(args)}: {error}"
            ) from error
    return environment
