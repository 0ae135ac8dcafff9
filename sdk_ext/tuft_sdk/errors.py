"""What can go wrong between a step and the service, in the words a caller can act on.

`translated()` is the one place where exceptions of the Tinker SDK and of httpx become these.
The Tinker SDK retries transient failures for minutes by itself: what arrives here is what was
left after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx


class SdkError(Exception):
    """Base of the errors of `tuft_sdk`. `code` is the service's stable code, where it gave one."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class ConfigurationError(SdkError):
    """The environment or the arguments are wrong: an address, a key, a missing variable."""


class Rejected(SdkError):
    """The service refused the request for good, or the operation failed for good."""


class NotThere(Rejected):
    """No such run, model, checkpoint or step; or it belongs to another tenant."""


class ResultExpired(SdkError):
    """The operation was executed, but its result was dropped after its time to live."""


class Transient(SdkError):
    """The service is away, overloaded or too slow: the same call may succeed later."""


class OperationFailed(Transient):
    """The service could not execute an operation, through no fault of the request."""


class LeaseLost(SdkError):
    """A newer writer attached to the training run: this process may not write any more."""


def code_of(body: object) -> str | None:
    """The stable error code in an error body of the service, or None."""
    if not isinstance(body, dict):
        return None
    for key in ("code", "error_code"):
        if isinstance(body.get(key), str):
            return str(body[key])
    for key in ("detail", "error"):
        if (code := code_of(body.get(key))) is not None:
            return code
    return None


def from_status(status: int, message: str, body: object) -> SdkError:
    """The error for an HTTP status and the service's error body."""
    code = code_of(body)
    if code in ("stale_writer", "lease_lost"):
        return LeaseLost(message, code=code)
    if status in (401, 402, 403):
        return ConfigurationError(message, code=code)
    if status == 404:
        return NotThere(message, code=code)
    if status == 410 or code == "expired":
        return ResultExpired(message, code=code)
    if status in (408, 409, 429) or status >= 500:
        return Transient(message, code=code)
    return Rejected(message, code=code)


def translate(error: Exception) -> Exception:
    """The error of this module that `error` means; `error` itself where it is none of ours."""
    import tinker
    from tinker.lib.retryable_exception import RetryableException

    if isinstance(error, SdkError):
        return error
    if isinstance(error, tinker.RequestFailedError):
        kind = Rejected if error.category.value == "user" else OperationFailed
        return kind(error.message)
    if isinstance(error, tinker.APIStatusError):
        return from_status(error.status_code, error.message, error.body)
    if isinstance(error, RetryableException):  # the SDK's form of 410 for training results
        return ResultExpired(str(error))
    if isinstance(error, ValueError) and isinstance(error.__cause__, tinker.APIStatusError):
        # "Error retrieving result": the SDK wraps what it won't retry in a ValueError.
        cause = error.__cause__
        return from_status(cause.status_code, str(error), cause.body)
    if isinstance(error, tinker.APIConnectionError | httpx.TransportError | TimeoutError):
        text = str(error) or "no answer in time"
        return Transient(f"the service can't be reached: {text}")
    if isinstance(error, tinker.TinkerError):
        return Rejected(str(error))
    return error


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the Tinker SDK and of httpx as errors of this module."""
    try:
        yield
    except Exception as error:  # sorted by translate(); what is not ours goes on unchanged
        meaning = translate(error)
        if meaning is error:
            raise
        raise meaning from error
