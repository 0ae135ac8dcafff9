"""What a step's exit code says, and the one place where errors become exit codes.

A workflow engine retries on 75 and on nothing else.
"""

from __future__ import annotations

from enum import IntEnum

import tuft_sdk


class ExitCode(IntEnum):
    OK = 0
    LEASE_LOST = 3
    """Another process took over the training run: this one must not be retried."""
    BAD_DATA = 65
    """The input can't be processed, now or ever."""
    TRANSIENT = 75
    """The service or the object store is away: retry."""
    BAD_CONFIGURATION = 78
    """A parameter, variable or credential is wrong."""


class StepError(Exception):
    """Base of the errors that steps raise themselves."""

    exit_code: ExitCode


class BadData(StepError):
    exit_code = ExitCode.BAD_DATA


class BadConfiguration(StepError):
    exit_code = ExitCode.BAD_CONFIGURATION


class TransientFailure(StepError):
    exit_code = ExitCode.TRANSIENT


_SDK_ERRORS: tuple[tuple[type[tuft_sdk.SdkError], ExitCode], ...] = (
    (tuft_sdk.LeaseLost, ExitCode.LEASE_LOST),
    (tuft_sdk.ConfigurationError, ExitCode.BAD_CONFIGURATION),
    (tuft_sdk.Transient, ExitCode.TRANSIENT),
    (tuft_sdk.SdkError, ExitCode.BAD_DATA),
)


def exit_code_of(error: BaseException) -> ExitCode | None:
    """The exit code that `error` means; None for one that nobody foresaw: a bug, shown whole."""
    if isinstance(error, StepError):
        return error.exit_code
    for kind, code in _SDK_ERRORS:
        if isinstance(error, kind):
            return code
    return None
