"""What became of a call, as the official SDK wants to hear it: an HTTP answer, or an exception of its family. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import anthropic
import httpx2
import msgspec

BATCH_ID = "standby-batch-id"
"""Header of every answer: the batch that the call went with."""
STATUS = {
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
"""Of an HTTP answer, by the type of an errored result (contract 6.1): it decides which exception the SDK raises."""
JSON = "application/json"
encode = msgspec.json.Encoder().encode


class NotBatched(anthropic.AnthropicError):
    """The call cannot go with a batch, such as one that wants a stream, or its batch cannot be used."""


class Closed(anthropic.AnthropicError):
    """The client was closed, by an error of the program or by hand, before the call had its answer."""


class NotAnswered(anthropic.APIError):
    """The call went with a batch and came back without an answer. Costs nothing unless it is `Missing`."""

    def __init__(self, message: str, request: httpx2.Request, *, batch_id: str) -> None:
        """Keep the batch, to ask about it."""
        super().__init__(message, request, body=None)
        self.batch_id = batch_id


class Expired(NotAnswered, anthropic.RetryableError):
    """Its batch was 24 hours old before the call was at its turn. Tried again as `max_retries` says."""


class Canceled(NotAnswered):
    """Somebody canceled its batch. Not tried again."""


class Missing(NotAnswered):
    """Its batch ended and has no result for it, or its results are gone. It may have been paid; not tried again."""


UNANSWERED: Mapping[str, tuple[type[NotAnswered], str]] = {
    "expired": (Expired, "the batch expired before the call was at its turn"),
    "canceled": (Canceled, "the batch was canceled before the call was at its turn"),
    "missing": (Missing, "the batch has no result for the call"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one call."""

    kind: str
    """`succeeded`, `errored` (also of a refused create), a key of `UNANSWERED`, `unreachable`, `unusable`, `closed`."""
    body: bytes = b""
    """JSON: the message, or the body of an error."""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    batch_id: str = ""
    words: str = ""
    """Of `unreachable` and `unusable`: why."""


class _Result(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Row(msgspec.Struct):
    custom_id: str
    result: _Result


class _Inner(msgspec.Struct):
    type: str = "api_error"


class _Error(msgspec.Struct):
    error: _Inner
    request_id: str | None = None


_row = msgspec.json.Decoder(_Row).decode
_error = msgspec.json.Decoder(_Error).decode


def named(line: bytes, batch_id: str) -> tuple[str, Outcome] | None:
    """Read one row of results: its `custom_id` and what it says; None if it is no row."""
    try:
        row = _row(line)
        return row.custom_id, _outcome(row.result, batch_id)
    except msgspec.DecodeError:
        return None


def _outcome(result: _Result, batch_id: str) -> Outcome:
    if result.type == "succeeded":
        return Outcome(kind="succeeded", body=bytes(result.message), batch_id=batch_id)
    if result.type != "errored":
        kind = result.type if result.type in UNANSWERED else "missing"
        return Outcome(kind=kind, batch_id=batch_id)
    error = _error(result.error)
    headers = {"request-id": error.request_id} if error.request_id else {}
    status = STATUS.get(error.error.type, 500)
    return Outcome(kind="errored", status=status, body=bytes(result.error), headers=headers, batch_id=batch_id)


def refused(answer: httpx2.Response) -> Outcome:
    """Pass on what the service said to the create of a whole batch: each of its calls hears the same."""
    headers = {name: answer.headers[name] for name in ("request-id", "x-should-retry") if name in answer.headers}
    return Outcome(kind="errored", status=answer.status_code, body=answer.content, headers=headers)


def too_large(size: int, most: int) -> Outcome:
    """Refuse a call that no batch could hold."""
    words = f"the request has {size:,} bytes; a batch holds at most {most:,}"
    body = encode({"type": "error", "error": {"type": "request_too_large", "message": words}})
    return Outcome(kind="errored", status=413, body=body)


def answer_to(request: httpx2.Request, outcome: Outcome) -> httpx2.Response:
    """Answer a request; `NotAnswered`, `Closed` and connection errors are raised, errors with a status are answers."""
    if outcome.kind in UNANSWERED:
        kind, words = UNANSWERED[outcome.kind]
        raise kind(f"{words} ({outcome.batch_id or 'no batch'})", request, batch_id=outcome.batch_id)
    if outcome.kind == "unreachable":
        raise httpx2.ConnectError(outcome.words, request=request)
    if outcome.kind == "unusable":
        raise NotBatched(outcome.words)
    if outcome.kind == "closed":
        raise Closed("the client was closed before the call had its answer")
    headers = {"content-type": JSON, **outcome.headers}
    if outcome.batch_id:
        headers[BATCH_ID] = outcome.batch_id
    return httpx2.Response(outcome.status or 200, headers=headers, content=outcome.body)
