"""Errors as bytes: the body of a refused HTTP request, and the row of a refused item (contract 6.1 and 2.7.3)."""

from __future__ import annotations

from typing import Any

import msgspec

from standby.errors import ApiError, EngineError
from standby.wire.batches import errored_row, sound_text
from standby.wire.events import ErrorEvent, ErrorInfo

_encode = msgspec.json.Encoder().encode

STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def error_body(error: ApiError, request_id: str) -> bytes:
    """Write the body of an error; the `request-id` header has the same `request_id`."""
    return _encode({"type": "error", "error": _error(error), "request_id": request_id})


def error_row(custom_id: str, error: ApiError | EngineError) -> bytes:
    """Write the row of an item that was refused or whose last attempt failed."""
    type_ = error.type if isinstance(error, ApiError) else error.failure.wire_type
    return errored_row(custom_id, type_, error.message)


def error_event(error: ApiError, request_id: str | None) -> ErrorEvent:
    """Return the event that ends a stream whose status was sent already (contract 3.5)."""
    info = ErrorInfo(type=error.type, message=sound_text(error.message), details=error.details)
    return ErrorEvent(error=info, request_id=request_id)


def of_engine(error: EngineError) -> ApiError:
    """Turn a failed attempt into the answer that a live client gets."""
    type_ = error.failure.wire_type
    headers = {} if error.retry_after_s is None else {"retry-after": str(max(1, round(error.retry_after_s)))}
    return ApiError(STATUS_OF[type_], type_, error.message, headers=headers)


def _error(error: ApiError) -> dict[str, Any]:
    body: dict[str, Any] = {"type": error.type, "message": sound_text(error.message)}
    if error.details is not None:
        body["details"] = error.details
    return body
