"""How an engine's refusals and broken connections become the closed set of failures. Pure.

An engine's own words are passed on only where they cannot contain the prompt: numbers, names of fields, codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

from standby.errors import EngineError, Failure
from standby.wire.chat.chunks import Chunk, read_chunk
from standby.wire.chat.dialect import HOST, Dialect

MOST_WAIT_S = 3600.0
"""A longer `retry-after` is cut to this: the endpoint is looked at again."""

ITEMS_FAULT = frozenset({400, 413, 422})
BUSY = frozenset({429, 503, 529})
SLOW = frozenset({408, 504, 524, 598})
AWAY = frozenset({501, 502, 521, 522, 523, 525, 526, 530})
"""What a proxy answers whose engine is not there, and an engine that lacks the route."""

UNREACHABLE = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientSSLError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.RedirectClientError,
)


class PriorityRefused(EngineError):
    """The engine does not take a `priority`; the same request without one may work."""


def kind_of(status: int) -> Failure:
    """Return what a status from 300 on means; a 404 that names the model is told apart by its body."""
    if status in ITEMS_FAULT:
        return Failure.INVALID
    if status in BUSY:
        return Failure.OVERLOADED
    if status in SLOW:
        return Failure.TIMEOUT
    if status < 500 or status in AWAY:
        return Failure.UNREACHABLE
    return Failure.BROKEN


def from_exception(error: Exception) -> EngineError:
    """Turn what the HTTP client raises into a failure."""
    name = type(error).__name__
    if isinstance(error, UNREACHABLE):
        return EngineError(Failure.UNREACHABLE, f"the engine cannot be reached ({name})")
    if isinstance(error, TimeoutError):
        return EngineError(Failure.TIMEOUT, f"the engine did not answer in time ({name})")
    return EngineError(Failure.BROKEN, f"the engine broke off ({name})")


def from_status(
    status: int, headers: Mapping[str, str], body: bytes, *, dialect: Dialect | None, now: datetime
) -> EngineError:
    """Turn a status and its body into a failure."""
    error = error_of(body)
    message = str(error.get("message", "")).lower()
    if _is_about_priority(error, message):
        return PriorityRefused(Failure.INVALID, "priority: the engine does not take it")
    if status == 503 and "loading" in message:
        return EngineError(Failure.UNREACHABLE, "the engine is still loading its model")
    kind = kind_of(status)
    if _names_no_model(status, error, message):
        kind = Failure.UNKNOWN_MODEL
    elif known_refusal(message):
        kind = Failure.INVALID
    wait_s = retry_after_s(headers, now) if kind.retriable else None
    return EngineError(kind, _words(kind, status, error, dialect), retry_after_s=wait_s)


def read(data: bytes) -> Chunk:
    """Read the data of one event of a stream; an error in it is raised as the failure that it is."""
    try:
        chunk = read_chunk(data)
    except ValueError:
        raise EngineError(Failure.BROKEN, "the engine sent a chunk that cannot be read") from None
    if chunk.error is not None:
        raise from_event(data, chunk.error)
    return chunk


def from_event(data: bytes, told: EngineError) -> EngineError:
    """Return what an error in a stream means: as it was `told`, unless its words say it better."""
    error = error_of(data)
    if _is_about_priority(error, str(error.get("message", "")).lower()):
        return PriorityRefused(Failure.INVALID, "priority: the engine does not take it")
    overflow = _overflow(error)
    return told if overflow is None else EngineError(Failure.INVALID, overflow)


def error_of(body: bytes) -> dict[str, Any]:
    """Find the error object in a body: under `error`, at the top, or as FastAPI's `detail`."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    error = found.get("error", found)
    if isinstance(error, str):
        return {**found, "message": error}
    return error if isinstance(error, dict) else {}


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read `retry-after`: seconds, or a date."""
    text = headers.get("retry-after", "")
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(text) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, wait_s), MOST_WAIT_S) if wait_s == wait_s else None  # noqa: PLR0124 - not a number


def _words(kind: Failure, status: int, error: dict[str, Any], dialect: Dialect | None) -> str:
    if kind is Failure.INVALID:
        return _overflow(error) or _refused(status, error, dialect)
    if 300 <= status < 400:
        return f"the engine redirects ({status}); give the URL that it points to"
    return {
        Failure.OVERLOADED: f"the engine is overloaded ({status})",
        Failure.TIMEOUT: f"the engine gave up waiting ({status})",
        Failure.UNKNOWN_MODEL: "the engine does not serve this model",
        Failure.UNREACHABLE: f"the engine does not take our requests ({status}); are URL and key right?",
    }.get(kind, f"the engine failed ({status})")


_PRIORITY = re.compile(r"priority (scheduling )?is (not enabled|disabled)|without a priority")


def _is_about_priority(error: dict[str, Any], message: str) -> bool:
    """Tell vLLM's and SGLang's refusal of the field."""
    return error.get("param") == "priority" or bool(_PRIORITY.search(message))


def _names_no_model(status: int, error: dict[str, Any], message: str) -> bool:
    if status == 404:
        return "model" in message or error.get("code") == "model_not_found" or error.get("param") == "model"
    return status == 400 and error.get("code") == "model_not_found"


OVERFLOWS = (
    r"maximum context length is (?P<most>\d+).{0,80}?requested \d+ tokens \((?P<prompt>\d+).{0,40}?(?P<answer>\d+)",
    r"maximum context length is (?P<most>\d+).{0,80}?requested (?P<answer>\d+) output.{0,80}?(?P<prompt>\d+) input",
    r"too large: (?P<answer>\d+).{0,40}?context length is (?P<most>\d+).{0,30}?has (?P<prompt>\d+) input",
    r"passed (?P<prompt>\d+) input tokens and requested (?P<answer>\d+) output.{0,80}?only (?P<most>\d+)",
    r"prompt \(length (?P<prompt>\d+)\).{0,80}?longer than the maximum model length of (?P<most>\d+)",
    r"maximum context length is (?P<most>\d+).{0,60}?contains (at least )?(?P<prompt>\d+) input tokens, which",
    r"input length \((?P<prompt>\d+)\) exceeds model's maximum context length \((?P<most>\d+)",
    r"input \((?P<prompt>\d+) tokens\) is longer than the model's context length \((?P<most>\d+)",
    r"maximum context length of (?P<most>\d+).{0,80}?: (?P<prompt>\d+) tokens from the input.{0,40}?(?P<answer>\d+)",
    r"maximum context length is (?P<most>\d+).{0,60}?resulted in (?P<prompt>\d+)",
)
"""How vLLM, SGLang and OpenAI say that a prompt is too long, in their versions; only the numbers are taken."""
_OVERFLOWS = [re.compile(pattern, re.DOTALL | re.IGNORECASE) for pattern in OVERFLOWS]
_SAYS_OVERFLOW = re.compile(r"context_length_exceeded|maximum context length|exceeds? the (available )?context")


def _overflow(error: dict[str, Any]) -> str | None:
    """Say with the engine's numbers that the prompt is too long, if that is what it means."""
    tokens, most = error.get("n_prompt_tokens"), error.get("n_ctx")
    if isinstance(tokens, int) and isinstance(most, int):
        return f"prompt is too long: {tokens} tokens > {most - 1} maximum"
    message = str(error.get("message", ""))[:2000]
    for pattern in _OVERFLOWS:
        if found := pattern.search(message):
            return _too_long(found.groupdict())
    said = f"{error.get('code')} {error.get('type')} {message}".lower()
    return "prompt is too long for the context of this model" if _SAYS_OVERFLOW.search(said) else None


def _too_long(found: dict[str, str | None]) -> str:
    prompt, most, answer = int(found["prompt"] or 0), int(found["most"] or 0), int(found.get("answer") or 0)
    if prompt < most and answer:
        return (
            f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > {most}, decrease input length "
            "or `max_tokens` and try again"
        )
    return f"prompt is too long: {prompt} tokens > {min(most, prompt - 1)} maximum"


KNOWN = (
    (
        ("tool-call-parser", "enable-auto-tool-choice"),
        'tools: the engine was started without tool parsing; its operator can set engine.tools to "schema"',
    ),
    (
        ("image input is not supported", "not a multimodal model", "at most 0 image"),
        "messages: the model behind this name takes no images",
    ),
)
"""Refusals that are known by a phrase, whatever their status (llama.cpp's is 500), and what to say instead."""
FIELDS = {
    "max_completion_tokens": "max_tokens",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}
"""Names of chat-completions that are called otherwise in the Messages API."""
_SAFE = re.compile(r"[A-Za-z_][\w.\-\[\]]{0,60}")


def _refused(status: int, error: dict[str, Any], dialect: Dialect | None) -> str:
    message = error.get("message")
    if dialect is not None and dialect.name == HOST.name and isinstance(message, str):
        return message
    if known := known_refusal(str(message).lower()):
        return known
    field = _field(error)
    said = f"the engine refuses {'it' if field else 'the request'} ({status}, {_reason(error)})"
    return f"{field}: {said}" if field else said


def known_refusal(message: str) -> str:
    """Say a refusal in our words if its own, in lower case, are known; else nothing."""
    return next((words for phrases, words in KNOWN if any(phrase in message for phrase in phrases)), "")


def _field(error: dict[str, Any]) -> str:
    """Find the field that is at fault: OpenAI's `param`, or where FastAPI's first detail lies."""
    name = error.get("param")
    detail = error.get("detail")
    if name is None and isinstance(detail, list) and detail and isinstance(detail[0], dict):
        path = [str(part) for part in detail[0].get("loc") or () if part != "body"]
        name = ".".join(path[:4])
    if not isinstance(name, str) or not _SAFE.fullmatch(name):
        return ""
    return FIELDS.get(name, name)


def _reason(error: dict[str, Any]) -> str:
    """Return a code or a type, which cannot be a prompt."""
    detail = error.get("detail")
    first = detail[0] if isinstance(detail, list) and detail and isinstance(detail[0], dict) else {}
    for said in (error.get("code"), error.get("type"), first.get("type")):
        if isinstance(said, str) and _SAFE.fullmatch(said):
            return said
    return "no reason given"
