"""Environments by name: a registered one, or `package.module:attribute`.

What is named is called with the step's `env_args` and returns an `Environment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuft_components.envs.base import Environment
from tuft_components.errors import BadConfiguration, UserCodeFailed, users_code
from tuft_components.names import resolve

ENVIRONMENTS: dict[str, str] = {
    "second_word": "tuft_components.envs.second_word:SecondWord",
}


def make_environment(name: str, args: Mapping[str, Any]) -> Environment:
    """Raises:
    BadConfiguration: no such environment, or arguments that it does not take.
    UserCodeFailed: it raised something else.
    """
    factory = resolve(name, ENVIRONMENTS, "environment")
    try:
        with users_code(f"environment {name} with env_args {dict(args)}"):
            environment: Environment = factory(**args)
    except UserCodeFailed as error:
        if isinstance(error.__cause__, TypeError | ValueError):  # says what is wrong with the args
            raise BadConfiguration(
                f"environment {name} with env_args {dict(args)}: {error.__cause__}"
            ) from error
        raise
    return environment
