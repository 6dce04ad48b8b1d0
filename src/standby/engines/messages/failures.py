"""How a Messages server's refusals become the closed set of failures. Pure.

Such a server speaks the contract's words (6.1), so what it says of a request is passed on as it is, unless it is the
operator's to put right: a key, a bill, a spend limit. Then the item is tried again until somebody did.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from standby.engines.chat.failures import error_of, kind_of, known_refusal, retry_after_s
from standby.errors import ApiError, EngineError, Failure, InvalidParams, invalid

MOST_WORDS = 500
"""A message is cut here, and to its first line: some servers quote what they choked on."""

BY_TYPE: Mapping[str, Failure] = {
    "authentication_error": Failure.UNREACHABLE,
    "permission_error": Failure.UNREACHABLE,
    "billing_error": Failure.UNREACHABLE,
    "rate_limit_error": Failure.OVERLOADED,
    "overloaded_error": Failure.OVERLOADED,
    "timeout_error": Failure.TIMEOUT,
    "api_error": Failure.BROKEN,
    "conflict_error": Failure.BROKEN,
}
ITEMS = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})
"""The request's own fault."""
STATUS = {"invalid_request_error": 400, "not_found_error": 404, "request_too_large": 413}
OPERATORS_CODES = frozenset(
    {
        "organization_on_hold",
        "claude_code_key_creator_not_member",
        "cmek_key_disabled",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
    }
)
OPERATORS_WORDS = ("you have reached your specified", "your credit balance is too low")
"""How a 400 begins that is about money (contract 6.2)."""


class NoRoute(EngineError):
    """The server has no such path; for some questions that is an answer."""


def from_status(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> EngineError | ApiError:
    """Turn a refused request into a failure, or into the request's own fault."""
    error = error_of(body)
    kind = _kind(status, error)
    if kind is None:
        return _own_fault(status, error)
    if known := known_refusal(str(error.get("message", "")).lower()):
        return invalid(known)
    if status in {404, 405, 501}:
        return NoRoute(kind, _words(kind, status, error))
    wait_s = retry_after_s(headers, now) if kind.retriable else None
    return EngineError(kind, _words(kind, status, error), retry_after_s=wait_s)


def from_event(type_: str, message: str) -> EngineError | ApiError:
    """Turn an `error` event in the middle of a stream into a failure."""
    error = {"type": type_, "message": message}
    status = STATUS.get(type_, 500)
    kind = _kind(status, error)
    return _own_fault(status, error) if kind is None else EngineError(kind, _words(kind, status, error))


def _kind(status: int, error: dict[str, Any]) -> Failure | None:
    """Return the kind of failure; None for the request's own fault."""
    if _is_operators(error):
        return Failure.UNREACHABLE
    type_ = error.get("type")
    if status == 404:
        return None if _names_something(error) else Failure.UNREACHABLE
    if status in {400, 413, 422}:
        return None
    if status in {409, 500}:
        return BY_TYPE.get(str(type_), Failure.BROKEN)
    return kind_of(status)


def _is_operators(error: dict[str, Any]) -> bool:
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    words = str(error.get("message", "")).lower()
    return code in OPERATORS_CODES or words.startswith(OPERATORS_WORDS)


def _names_something(error: dict[str, Any]) -> bool:
    """Tell "this model or file is not there" from "this path is not there"."""
    message = str(error.get("message", "")).strip().rstrip(".").lower()
    if "model" in message:
        return True
    return error.get("type") == "not_found_error" and bool(message) and message != "not found"


def _own_fault(status: int, error: dict[str, Any]) -> InvalidParams:
    type_ = error.get("type")
    if type_ not in ITEMS:
        type_ = {404: "not_found_error", 413: "request_too_large"}.get(status, "invalid_request_error")
    message = error.get("message")
    if isinstance(message, str) and message.strip():
        words = message.strip().splitlines()[0][:MOST_WORDS]
    else:
        words = f"the engine refuses the request ({status}, no reason given)"
    return InvalidParams(STATUS.get(str(type_), 400), str(type_), words)


def _words(kind: Failure, status: int, error: dict[str, Any]) -> str:
    match kind:
        case Failure.OVERLOADED:
            return f"the engine is overloaded ({status})"
        case Failure.TIMEOUT:
            return f"the engine gave up waiting ({status})"
        case Failure.UNREACHABLE:
            type_ = error.get("type")
            known = type_ if type_ in BY_TYPE or type_ in ITEMS else "no reason given"
            return f"the engine does not take our requests ({status}, {known}); are URL, key and account right?"
        case _:
            return f"the engine failed ({status})"
