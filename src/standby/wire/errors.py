"""Errors as bytes: the body of a refused HTTP request, and the row of a refused item (contract 6.1 and 2.7.3)."""

from __future__ import annotations

from typing import Any

import msgspec

from standby.errors import ApiError, EngineError
from standby.wire.batches import errored_row, sound_text
from standby.wire.events import ErrorEvent, ErrorInfo

_encode = msgspec.json.Encoder().encode


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


def _error(error: ApiError) -> dict[str, Any]:
    body: dict[str, Any] = {"type": error.type, "message": sound_text(error.message)}
    if error.details is not None:
        body["details"] = error.details
    return body
