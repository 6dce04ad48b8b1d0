"""Every exception as an answer: the one place where errors of the house become statuses (contract 6)."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from standby.errors import (
    ApiError,
    BlobError,
    Conflict,
    Corrupt,
    EngineError,
    Failure,
    NotFound,
    StoreError,
)

_FAILURES: dict[Failure, tuple[int, str]] = {
    Failure.UNREACHABLE: (503, "api_error"),
    Failure.OVERLOADED: (529, "overloaded_error"),
    Failure.TIMEOUT: (504, "timeout_error"),
    Failure.BROKEN: (500, "api_error"),
    Failure.EMPTY: (500, "api_error"),
    Failure.INVALID: (400, "invalid_request_error"),
    Failure.UNKNOWN_MODEL: (404, "not_found_error"),
}
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def answer_to(error: BaseException) -> ApiError:
    """Translate; whatever nobody foresaw is a 500 that tells nothing of its inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineError):
        return _engine_answer(error)
    if isinstance(error, (StoreError, BlobError, OSError)):
        return _storage_answer(error)
    return ApiError(500, "api_error", "Internal server error")


def is_foreseen(error: BaseException) -> bool:
    """Whether the error is one of the house's own; others are logged with their stack."""
    return isinstance(error, (ApiError, EngineError, StoreError, BlobError))


def describe(error: BaseException) -> dict[str, str]:
    """Describe an error for the log.

    Messages of our own errors are written to be read. Those of foreign errors may quote what they choked on, so
    only their type and stack are kept.
    """
    if is_foreseen(error):
        return {"error": type(error).__name__, "detail": str(error)}
    return {"error": type(error).__name__, "stack": "".join(traceback.format_tb(error.__traceback__))}


_DO_NOT_RETRY = {"x-should-retry": "false"}
_NOTHING_LOST = "Nothing that was accepted is lost."


def _engine_answer(error: EngineError) -> ApiError:
    status, type_ = _FAILURES[error.failure]
    headers = {}
    if error.retry_after_s is not None and status in {503, 529}:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return ApiError(status, type_, error.message, headers=headers)


def _storage_answer(error: BaseException) -> ApiError:
    match error:
        case NotFound():
            return ApiError(404, "not_found_error", "Not found.")
        case Conflict():
            return ApiError(400, "invalid_request_error", "The state of this object forbids what was asked.")
        case Corrupt():
            return ApiError(500, "api_error", "Stored data is damaged and was not sent.", headers={**_DO_NOT_RETRY})
        case _ if any(isinstance(cause, OSError) and cause.errno in _NO_ROOM for cause in _chain(error)):
            return ApiError(500, "api_error", f"The disk of the server is full. {_NOTHING_LOST}")
        case _:
            return ApiError(
                500,
                "api_error",
                f"The server cannot read or write its data; its disk may be full or failing. {_NOTHING_LOST}",
            )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
