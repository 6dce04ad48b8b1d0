"""Errors as bytes: the body of a refused HTTP request, and the row of a refused item (contract 6.1 and 2.7.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from standby.errors import ApiError, LimitReached
from standby.records import SECOND
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


def queue_full(what: str, *, current: int, added: int, maximum: int) -> LimitReached:
    """429 that names the limit, the current number and the maximum (contract 8); `what`: `items` or `tokens`."""
    hint = "" if added <= maximum else " This batch alone is more than that: send it in parts."
    return LimitReached(
        f"enqueued_{what}",
        429,
        "rate_limit_error",
        f"Limit on enqueued batch {what}: {current} are waiting, {added} more were sent, and the maximum is {maximum}. "
        f"Wait until some of them have a result.{hint}",
        headers={"retry-after": str(QUEUE_RETRY_S)},
    )


def spend_limit_reached(*, access_us: int) -> LimitReached:
    """400 for the limit that a workspace set itself (contract 6.2); it says when access returns."""
    moment = datetime.fromtimestamp(access_us // SECOND, tz=UTC)
    return LimitReached(
        "spend",
        400,
        "invalid_request_error",
        "You have reached your specified workspace API usage limits. "
        f"You will regain access on {moment:%Y-%m-%d} at {moment:%H:%M} UTC.",
    )


def spend_reserved() -> LimitReached:
    """429 while requests in flight may use up what is left: the limit is not reached, so this passes soon."""
    return LimitReached(
        "spend_reserved",
        429,
        "rate_limit_error",
        "What is left of this workspace's API usage limits is reserved for its requests in flight. Retry shortly.",
        headers={"retry-after": "1"},
    )


def _error(error: ApiError) -> dict[str, Any]:
    body: dict[str, Any] = {"type": error.type, "message": sound_text(error.message)}
    if error.details is not None:
        body["details"] = error.details
    return body
