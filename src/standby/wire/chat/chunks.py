"""What one chunk of a chat-completions stream says, or a whole completion. Pure.

Engines differ in small things, and all of these are read: thinking as `reasoning` or `reasoning_content` (some send
both with the same text); content as a list of parts; calls without `index`, or with arguments that are an object
already; the stop string as `stop_reason` or `matched_stop`; cached and reasoning tokens at four places.
"""

from __future__ import annotations

from typing import Any

import msgspec

from standby.errors import EngineError, Failure


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of a call."""

    index: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk of a stream says."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish: str | None = None
    stop: str | None = None
    """The stop string that was found, if the engine names it."""
    prompt: int | None = None
    """Prompt tokens, the cached ones included; None if this chunk carries no counts."""
    cached: int | None = None
    """Of these, taken from the engine's prefix cache; None if it does not tell."""
    output: int = 0
    """Tokens generated so far."""
    thought: int | None = None
    """Of these, thinking; None if the engine does not tell."""
    error: EngineError | None = None
    """The engine gave up."""


def read_chunk(data: bytes) -> Chunk:
    """Read the data of one event, or the body of a completion; `ValueError` if it is neither."""
    try:
        body = _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if body.error is not None or body.object == "error":
        return Chunk(error=_failure(body.error if isinstance(body.error, dict) else {"code": body.code}))
    choice = _SILENT
    for one in body.choices:
        if not one.index:
            choice = one
            break
    delta = choice.delta or choice.message or _NOTHING
    content, thinking = delta.content, delta.reasoning_content or delta.reasoning or ""
    if isinstance(content, list):
        content, thinking = _parts(content, thinking)
    prompt, cached, output, thought = _counts(body)
    return Chunk(
        text=content or "",
        thinking=thinking,
        refusal=delta.refusal or "",
        calls=_calls(delta) if delta.tool_calls or delta.function_call else (),
        finish=choice.finish_reason,
        stop=None if choice.stop_reason is choice.matched_stop is None else _stop(choice),
        prompt=prompt,
        cached=cached,
        output=output,
        thought=thought,
    )


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Delta(msgspec.Struct, frozen=True):
    content: str | list[dict[str, Any]] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | list[Any] | None = None


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Timings(msgspec.Struct, frozen=True):
    cache_n: int | None = None
    prompt_n: int = 0
    predicted_n: int = 0


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    object: str | None = None
    code: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_NOTHING = _Delta()
_SILENT = _Choice()


def _parts(content: list[dict[str, Any]], thinking: str) -> tuple[str, str]:
    """Return the text and the thinking of a list of parts."""
    texts = [str(part.get("text", "")) for part in content if part.get("type") == "text"]
    thoughts = [_thought(part) for part in content if part.get("type") == "thinking"]
    return "".join(texts), "".join([thinking, *thoughts])


def _thought(part: dict[str, Any]) -> str:
    inner = part.get("thinking")
    if isinstance(inner, list):
        return "".join(str(piece.get("text", "")) for piece in inner if isinstance(piece, dict))
    return inner if isinstance(inner, str) else ""


def _calls(delta: _Delta) -> tuple[CallDelta, ...]:
    calls = list(delta.tool_calls or ())
    if delta.function_call is not None:
        calls.append(_Call(index=0, function=delta.function_call))
    return tuple(
        CallDelta(
            index=call.index,
            id=call.id or "",
            name=call.function.name or "",
            arguments=_arguments(call.function.arguments),
        )
        for call in calls
    )


def _arguments(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def _stop(choice: _Choice) -> str | None:
    named = (choice.stop_reason, choice.matched_stop)
    return next((stop for stop in named if isinstance(stop, str)), None)


def _counts(body: _Chunk) -> tuple[int | None, int | None, int, int | None]:
    """Return the tokens of the prompt, those of it that were cached, those generated, and those thought."""
    usage, timings = body.usage, body.timings
    if usage is not None and usage.prompt_tokens is not None:
        return usage.prompt_tokens, _cached(usage, timings), usage.completion_tokens or 0, _thoughts(usage)
    if timings is not None and timings.predicted_n:
        return timings.prompt_n + (timings.cache_n or 0), timings.cache_n, timings.predicted_n, None
    return None, None, 0, None


def _cached(usage: _Usage, timings: _Timings | None) -> int | None:
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        return details.cached_tokens
    if usage.prompt_cache_hit_tokens is not None:
        return usage.prompt_cache_hit_tokens
    return usage.cached_tokens if usage.cached_tokens is not None or timings is None else timings.cache_n


def _thoughts(usage: _Usage) -> int | None:
    details = usage.completion_tokens_details
    if details is not None and details.reasoning_tokens is not None:
        return details.reasoning_tokens
    return usage.reasoning_tokens


_INVALID = frozenset({"400", "413", "422", "invalid_request_error", "badrequesterror", "exceed_context_size_error"})
_OVERLOADED = frozenset({"429", "503", "529", "rate_limit_error", "overloaded_error", "unavailable_error"})
_SLOW = frozenset({"408", "504", "timeout_error"})


def _failure(error: dict[str, Any]) -> EngineError:
    """Turn an error in the middle of a stream into what it is; the engine's own words may hold the prompt."""
    tokens, most = error.get("n_prompt_tokens"), error.get("n_ctx")
    if isinstance(tokens, int) and isinstance(most, int):
        return EngineError(Failure.INVALID, f"prompt is too long: {tokens} tokens > {most - 1} maximum")
    said = {str(error.get(name)).lower() for name in ("code", "type")}
    if "invalid_schema" in said:
        return EngineError(Failure.INVALID, "output_config.format.schema: the engine cannot enforce this schema")
    if said & _INVALID:
        return EngineError(Failure.INVALID, "the engine refuses the request")
    if said & _OVERLOADED:
        return EngineError(Failure.OVERLOADED, "the engine is overloaded")
    if said & _SLOW:
        return EngineError(Failure.TIMEOUT, "the engine gave up waiting")
    return EngineError(Failure.BROKEN, "the engine gave up in the middle of the answer")
