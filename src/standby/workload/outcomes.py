"""What a result means for its row, and whether it may be tried again. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from standby.records import Tokens

GOOD_STOPS = frozenset({"end_turn", "stop_sequence", "tool_use"})
AGAIN = frozenset({"expired", "overloaded_error", "api_error", "timeout_error", "rate_limit_error"})
"""Causes that pass by themselves; everything else would fail again, and may be paid again."""
STOPS_THE_LINE = frozenset({"billing_error", "authentication_error", "permission_error"})
WHEN_ASKED = STOPS_THE_LINE | {"canceled", "missing"}
"""Causes that only a person can mend: tried again after `standby retry`, never by themselves."""
CREDIT = "credit balance is too low"
"""An empty account arrives as `invalid_request_error`; only its words tell."""

Validate = Callable[[Any], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one succeeded result is charged for."""

    tokens: Tokens
    searches: int = 0
    geo: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome; `cause` is empty for a good answer, and says what is wrong with any other."""

    outcome: str
    cause: str
    used: Used | None = None


def verdict(result: dict[str, Any], *, validate: Validate | None) -> Verdict:
    """Judge one result. An answer that is cut, refused or not what the schema asks for is no success."""
    kind = str(result.get("type"))
    if kind == "succeeded":
        message = result["message"]
        return Verdict(outcome=kind, cause=_flaw(message, validate), used=used_of(message.get("usage") or {}))
    if kind == "errored":
        return Verdict(outcome=kind, cause=_error_of(result))
    return Verdict(outcome=kind, cause=kind)


def is_tried_again(cause: str, tries: int, *, most: int, is_more_room: bool) -> bool:
    """Decide whether an item runs again: by cause, and at most `most` times after its first."""
    return tries <= most and (cause in AGAIN or (is_more_room and cause == "max_tokens"))


def text_of(message: dict[str, Any]) -> str:
    """Join the text of an answer."""
    return "".join(block.get("text", "") for block in message.get("content", ()) if block.get("type") == "text")


def used_of(usage: dict[str, Any]) -> Used:
    """Read usage; tokens written without a word on their lifetime live five minutes."""
    written = int(usage.get("cache_creation_input_tokens") or 0)
    hour = int((usage.get("cache_creation") or {}).get("ephemeral_1h_input_tokens") or 0)
    tokens = Tokens(
        input=int(usage.get("input_tokens") or 0),
        write_5m=written - hour,
        write_1h=hour,
        read=int(usage.get("cache_read_input_tokens") or 0),
        output=int(usage.get("output_tokens") or 0),
    )
    searches = int((usage.get("server_tool_use") or {}).get("web_search_requests") or 0)
    return Used(tokens=tokens, searches=searches, geo=usage.get("inference_geo"))


def written(used: Used, model: str) -> str:
    """Write what was used as one short text, so that equal ones can be counted."""
    t = used.tokens
    return f"{model},{t.input},{t.write_5m},{t.write_1h},{t.read},{t.output},{used.searches},{used.geo or ''}"


def read(text: str) -> list[tuple[str, Used]]:
    """Read it again; an item that was answered several times has several."""
    found = []
    for one in text.split(";"):
        model, *numbers, geo = one.rsplit(",", 7)
        columns = [int(number) for number in numbers]
        tokens = Tokens(input=columns[0], write_5m=columns[1], write_1h=columns[2], read=columns[3], output=columns[4])
        found.append((model, Used(tokens=tokens, searches=columns[5], geo=geo or None)))
    return found


def _flaw(message: dict[str, Any], validate: Validate | None) -> str:
    stop = str(message.get("stop_reason"))
    if stop not in GOOD_STOPS:
        return stop
    if validate is None:
        return ""
    try:
        return "" if validate(msgspec.json.decode(text_of(message))) else "schema"
    except msgspec.DecodeError:
        return "schema"


def _error_of(result: dict[str, Any]) -> str:
    inner = (result.get("error") or {}).get("error") or {}
    if CREDIT in str(inner.get("message", "")).lower():
        return "billing_error"
    return str(inner.get("type") or "api_error")
