"""Exceptions of the Tinker SDK and of httpx, in our words."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import tinker
from tinker.lib.retryable_exception import RetryableException
from tinker.types import RequestErrorCategory

from tuft_sdk import errors


def _status_error(kind: type[tinker.APIStatusError], status: int, body: Any) -> Exception:
    request = httpx.Request("POST", "http://service/x")
    return kind("said no", response=httpx.Response(status, request=request), body=body)


CASES: list[tuple[Exception, type[errors.SdkError]]] = [
    (_status_error(tinker.BadRequestError, 400, {"code": "stale_writer"}), errors.LeaseLost),
    (_status_error(tinker.BadRequestError, 400, {"code": "invalid_request"}), errors.Rejected),
    (_status_error(tinker.BadRequestError, 400, "text"), errors.Rejected),
    (_status_error(tinker.AuthenticationError, 401, None), errors.ConfigurationError),
    (_status_error(tinker.PermissionDeniedError, 403, None), errors.ConfigurationError),
    (_status_error(tinker.NotFoundError, 404, None), errors.NotThere),
    (_status_error(tinker.RateLimitError, 429, None), errors.Transient),
    (_status_error(tinker.InternalServerError, 503, None), errors.Transient),
    (tinker.APIConnectionError(request=httpx.Request("GET", "http://s")), errors.Transient),
    (httpx.ConnectError("refused"), errors.Transient),
    (TimeoutError(), errors.Transient),
    (RetryableException("promise expired"), errors.ResultExpired),
    (tinker.RequestFailedError("bad", "r", RequestErrorCategory.User), errors.Rejected),
    (tinker.RequestFailedError("oops", "r", RequestErrorCategory.Server), errors.OperationFailed),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda value: str(value)[:40])
def test_each_error_has_a_meaning(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, errors.translated():
        raise error
    assert type(caught.value) is kind


def test_a_result_that_could_not_be_retrieved_means_its_cause() -> None:
    wrapped = ValueError("Error retrieving result")
    wrapped.__cause__ = _status_error(tinker.NotFoundError, 404, {"code": "not_found"})
    with pytest.raises(errors.NotThere), errors.translated():
        raise wrapped


def test_what_is_not_ours_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), errors.translated():
        raise ZeroDivisionError


def test_codes_are_found_where_services_put_them() -> None:
    assert errors.code_of({"detail": "x", "code": "a"}) == "a"
    assert errors.code_of({"detail": {"code": "b"}}) == "b"
    assert errors.code_of({"detail": "x"}) is None
    assert errors.code_of([1]) is None
