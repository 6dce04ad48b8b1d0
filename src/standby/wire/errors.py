"""Errors as bytes: the body of a refused HTTP request, and the row of a refused item (contract 6.1 and 2.7.3)."""

from __future__ import annotations

from typing import Any

import msgspec

from standby.errors import ApiError
from standby.wire.batches import sound_text
from standby.wire.events import ErrorEvent, ErrorInfo

QUEUE_RETRY_S = 60
"""How long a client is told to wait for a full queue; nobody knows when a batch gets shorter."""

_encode = msgspec.json.Encoder().encode


def error_body(error: ApiError, request_id: str) -> bytes:
    """Write the body of an error; the `request-id` header has the same `request_id`."""
    return _encode({"type": "error", "error": _error(error), "request_id": request_id})


def error_event(error: ApiError, request_id: str | None) -> ErrorEvent:
    """Return the event that ends a stream whose status was sent already (contract 3.5)."""
    info = ErrorInfo(type=error.type, message=sound_text(error.message), details=error.details)
    return ErrorEvent(error=info, request_id=request_id)


def queue_full(*, current: int, added: int, maximum: int) -> ApiError:
    """429 that names the limit, the current number and the maximum (contract 8)."""
    return ApiError(
        429,
        "rate_limit_error",
        f"Limit on enqueued batch items: {current} are waiting, {added} more were sent, and the maximum is {maximum}. "
        "Wait until some of them have a result.",
        headers={"retry-after": str(QUEUE_RETRY_S)},
    )


def _error(error: ApiError) -> dict[str, Any]:
    body: dict[str, Any] = {"type": error.type, "message": sound_text(error.message)}
    if error.details is not None:
        body["details"] = error.details
    return body
