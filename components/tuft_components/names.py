"""Things by name: registered ones, and a user's own by import path `package.module:attribute`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tuft_components.errors import BadConfiguration
from tuft_components.user_code import described


def resolve(name: str, registered: Mapping[str, str], what: str) -> Callable[..., Any]:
    """The callable that `name` means.

    Raises:
        BadConfiguration: naming what is registered, or what failed to import.
    """
    found = find(name, registered, what)
    if not callable(found):
        raise BadConfiguration(f"{what} {name} is not callable, but a {type(found).__name__}")
    result: Callable[..., Any] = found
    return result


def find(name: str, registered: Mapping[str, str], what: str) -> object:
    """What `name` means, as `resolve`."""
    path = registered.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise BadConfiguration(
            f"no {what} {name!r}; there are: {', '.join(registered)}; "
            "or give your own as package.module:attribute"
        )
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise BadConfiguration(
            f"{what} {name}: can't import {module_name}: {error}. "
            "Is it in the image, or on PYTHONPATH?"
        ) from error
    except Exception as error:  # whatever a user's module does at its import
        raise BadConfiguration(
            f"{what} {name}: importing {module_name} raised {described(error)}"
        ) from error
    if not hasattr(module, attribute):
        raise BadConfiguration(f"{what} {name}: {module_name} has no {attribute!r}")
    found: object = getattr(module, attribute)
    return found
