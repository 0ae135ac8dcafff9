"""Environments by name.

A name is that of a registered one (`second_word`), of one with an argument behind a colon
(`gym:CartPole-v1`), or the path of a user's own (`python:package.module:Class`, where `python:` may
be left out). What is named is called with the argument, if it takes one, and the step's `env_args`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from tuft_components.envs.base import EnvironmentFamily
from tuft_components.envs.families import as_family
from tuft_components.envs.registry import ENVIRONMENTS
from tuft_components.errors import BadConfiguration
from tuft_components.names import resolve
from tuft_components.user_code import user_code


def make_environment(name: str, args: Mapping[str, Any]) -> EnvironmentFamily:
    """Raises:
    BadConfiguration: no such environment, something that it needs is not installed, or arguments
        that it does not take.
    BadData: it raised something else.
    """
    factory = _factory(name)
    with user_code(f"environment {name}"):
        try:
            return as_family(factory(**args), partial(factory, **args))
        except (TypeError, ValueError) as error:  # it tells what is wrong with them
            raise BadConfiguration(
                f"environment {name} with env_args {dict(args)}: {error}"
            ) from error


def _factory(name: str) -> Any:
    registered, _, argument = name.partition(":")
    entry = ENVIRONMENTS.get(registered)
    if entry is None:
        own = argument if registered == "python" else name
        paths = {key: found.factory for key, found in ENVIRONMENTS.items()}
        return resolve(own, paths, "environment")
    if entry.argument and not argument and not entry.argument.startswith("["):
        raise BadConfiguration(
            f"environment {name}: say which, as {registered}:{entry.argument.upper()}"
        )
    if argument and not entry.argument:
        raise BadConfiguration(f"environment {registered} takes nothing behind a colon: {name}")
    missing = entry.missing()
    if missing:
        raise BadConfiguration(
            f"environment {name} needs {', '.join(missing)}. To install: {entry.install}"
        )
    factory = resolve(entry.factory, {}, "environment")
    return partial(factory, argument) if argument else factory
