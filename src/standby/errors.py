"""Every error of ours, and the closed set of ways in which an attempt can fail.

    StandbyError
    ├── SettingError        a setting is unknown or wrong: the server does not start
    ├── StartError          port taken, data folder in use, schema too new: the server does not start
    ├── ScriptError         a script of the simulator cannot be understood
    ├── ApiError            an answer for the client: status, type, message
    │   ├── InvalidParams   the same fault as a 4xx (live) or as an errored row (batch)
    │   └── LimitReached    a limit of the workspace refuses it
    ├── PriceError          prices cannot be read or fetched
    ├── StoreError          the store could not do what was asked
    │   ├── NotFound        no such batch in this workspace
    │   ├── Conflict        the batch is in a state that forbids it
    │   └── QueueFull       the workspace has no room for another batch of this size
    ├── BlobError           bytes could not be read or written
    │   └── Corrupt         bytes do not match their checksum: reported, never served
    └── EngineError         an attempt failed; carries a Failure

Messages say what to do and never contain prompts or completions.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class StandbyError(Exception):
    """Root of all."""


class SettingError(StandbyError):
    """A setting is unknown or has a bad value; the message names it."""


class StartError(StandbyError):
    """The server cannot start; the message says what to do."""


class ScriptError(StandbyError):
    """A script or a fault of the simulator cannot be understood; the message shows the part that is wrong."""


class ApiError(StandbyError):
    """An answer with an error body (contract 6.1)."""

    def __init__(
        self,
        status: int,
        type_: str,
        message: str,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Keep what the wire needs; `code` becomes `error.details.error_code`."""
        super().__init__(message)
        self.status = status
        self.type = type_
        self.message = message
        self.code = code
        self.headers = headers or {}

    @property
    def details(self) -> dict[str, Any] | None:
        """The `details` object, if there is one."""
        return {"error_code": self.code} if self.code else None


class InvalidParams(ApiError):
    """`params` that can never run: a 4xx for a live request, an errored row in a batch."""


class LimitReached(ApiError):
    """A limit of the workspace refuses the request; `limit` names it for the metrics."""

    def __init__(
        self, limit: str, status: int, type_: str, message: str, *, headers: dict[str, str] | None = None
    ) -> None:
        """Keep which limit it is."""
        super().__init__(status, type_, message, headers=headers)
        self.limit = limit


def invalid(message: str) -> InvalidParams:
    """400 `invalid_request_error`."""
    return InvalidParams(400, "invalid_request_error", message)


def unknown_model(model: str) -> InvalidParams:
    """404 `not_found_error` with the contract's wording (2.7.3)."""
    return InvalidParams(404, "not_found_error", f"model: {model}")


class PriceError(StandbyError):
    """Prices cannot be read or fetched."""


class StoreError(StandbyError):
    """The store could not do what was asked."""


class NotFound(StoreError):
    """No such thing in this workspace."""


class Conflict(StoreError):
    """The batch is in a state that forbids it."""


class QueueFull(StoreError):
    """The workspace has no room for another batch of this size."""

    def __init__(self, what: str, *, current: int, added: int, maximum: int) -> None:
        """Say what there is too much of, `items` or `tokens`, and how much of it."""
        super().__init__(f"queue: {current} {what} are waiting, {added} more were sent, the maximum is {maximum}")
        self.what = what
        self.current = current
        self.added = added
        self.maximum = maximum


class BlobError(StandbyError):
    """Bytes could not be read or written."""


class Corrupt(BlobError):
    """Bytes do not match their checksum."""


ROW_ERRORS = (
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
)
"""Error types that an errored row may have (contract 2.7.2)."""


class Failure(Enum):
    """How an attempt can fail: (metric label, whose fault, wire type of the row if it is final)."""

    UNREACHABLE = ("unreachable", "endpoint", "api_error")
    OVERLOADED = ("overloaded", "endpoint", "overloaded_error")
    TIMEOUT = ("timeout", "attempt", "timeout_error")
    BROKEN = ("broken", "attempt", "api_error")
    EMPTY = ("empty", "attempt", "api_error")
    INVALID = ("invalid", "item", "invalid_request_error")
    UNKNOWN_MODEL = ("unknown_model", "item", "not_found_error")

    def __init__(self, label: str, fault: str, wire_type: str) -> None:
        """Name the parts."""
        self.label = label
        self.fault = fault
        self.wire_type = wire_type

    @property
    def retriable(self) -> bool:
        """Whether another attempt may succeed. Only the item's own faults are final at once."""
        return self.fault != "item"


class EngineError(StandbyError):
    """An attempt failed."""

    def __init__(self, failure: Failure, message: str, *, retry_after_s: float | None = None) -> None:
        """Keep the kind of failure and what the engine asked for."""
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.retry_after_s = retry_after_s
