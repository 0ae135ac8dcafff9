"""Errors of a user's environment or reward: said as such, with the place in the user's file."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import tuft_sdk
from tuft_components.errors import BadData, StepError, TransientFailure

_log = logging.getLogger(__name__)


def described(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero (mine.py, line 3)`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}, line {error.lineno})"
    elif frames:
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """What `what` raises in the block becomes an error of a step.

    It may raise errors of `tuft_components.errors` itself: they go on as they are. A connection
    that failed, or an answer that did not come in time, is transient. Anything else is bad data;
    its traceback goes to the log.
    """
    try:
        yield
    except (StepError, tuft_sdk.SdkError):
        raise
    except (ConnectionError, TimeoutError) as error:
        raise TransientFailure(f"{what} raised {described(error)}") from error
    except Exception as error:
        _log.exception("%s raised:", what)
        raise BadData(f"{what} raised {described(error)}") from error
